// Package hostport owns the instance's one nftables table: ports of pods at the host, masquerading of what pods send out, and
// the guard that keeps them from the host's loopback. The table is drawn in rules.go.
//
// It promises that a mapping is one element of one map, whatever else there is (a chain a pod makes every packet pay for every pod);
// that the table changes whole or not at all; and that what UDP flows remember of a mapping ends with it.
//
// Which pods there are and which addresses they have is package builtin's, which also remembers them; this table is made anew from that at each start.
package hostport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
)

// prefix begins the table of every instance.
const prefix = "fermata-"

// Table is the instance's nftables table. It is safe for concurrent use.
type Table struct {
	name  string
	host  *linux.FD
	rules *rules

	mu       sync.Mutex
	conn     *nftables.Conn
	registry *registry
	pods     []netip.Prefix
}

// Open prepares the table "fermata-<instance>" in the host's namespace, which is borrowed until Close. What pods send to peers, networks of other
// nodes' pods, keeps their address. Nothing is changed before [Table.Rebuild].
func Open(host *linux.FD, instance, bridge string, peers []netip.Prefix) (*Table, error) {
	name := prefix + instance
	t := &Table{name: name, host: host, rules: newRules(name, bridge, peers), registry: newRegistry()}
	if err := t.dial(); err != nil {
		return nil, err
	}
	return t, nil
}

// dial makes the socket. One transaction may carry every port of the node.
func (t *Table) dial() (err error) {
	t.conn, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(t.host.Int()),
		nftables.WithSockOptions(func(c *netlink.Conn) error { return errors.Join(c.SetWriteBuffer(4<<20), c.SetReadBuffer(4<<20)) }))
	if err != nil {
		return fmt.Errorf("open nftables of %s: %w", t.name, err)
	}
	return nil
}

// flush performs what is queued. After a failure answers may be left in the socket, which the next transaction would take for its own:
// it gets a new one.
func (t *Table) flush() error {
	err := t.conn.Flush()
	if err == nil {
		return nil
	}
	return errors.Join(err, t.redial())
}

func (t *Table) redial() error {
	t.conn.CloseLasting() // whatever it says, it is not used again
	return t.dial()
}

// Close lets go of the socket; the table stays.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn.CloseLasting()
}

// Reserve takes ports for a pod, in memory only; AlreadyExists if another has one of them, InvalidArgument if they cannot be.
func (t *Table) Reserve(owner string, pod []netip.Addr, ports []endpoint.PortMapping) error {
	want, err := plan(owner, pod, ports)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.registry.take(owner, want)
}

// Install opens the ports that Reserve took for a pod.
func (t *Table) Install(ctx context.Context, owner string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := t.registry.owners[owner]
	if len(want) == 0 {
		return nil
	}
	err := t.change(want, (*nftables.Conn).SetAddElements)
	if errors.Is(err, os.ErrNotExist) { // somebody flushed the rules
		err = t.rebuild()
	}
	if err != nil {
		return fmt.Errorf("add host ports of %s to nft table %s: %w", owner, t.name, err)
	}
	return t.forgetFlows(want, toHostPort) // flows from before know no mapping and would keep missing it
}

// Remove closes a pod's ports and frees them. Unknown is fine.
func (t *Table) Remove(ctx context.Context, owner string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	had := t.registry.owners[owner]
	if len(had) == 0 {
		return nil
	}
	err := t.change(had, (*nftables.Conn).SetDeleteElements)
	if errors.Is(err, os.ErrNotExist) { // that one is gone already must not keep the others
		err = nil
		for _, e := range had {
			if one := t.change([]entry{e}, (*nftables.Conn).SetDeleteElements); one != nil && !errors.Is(one, os.ErrNotExist) {
				err = errors.Join(err, one)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("remove host ports of %s from nft table %s: %w", owner, t.name, err)
	}
	t.registry.drop(owner)
	return t.forgetFlows(had, toPod)
}

// change performs one transaction on elements.
func (t *Table) change(entries []entry, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	for _, e := range entries {
		if err := do(t.conn, t.rules.set(e), []nftables.SetElement{e.element()}); err != nil {
			return err
		}
	}
	return t.flush()
}

// NeedsLocalnet says whether a port is to be reached by 127.0.0.1.
func (t *Table) NeedsLocalnet() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.registry.loopbacks > 0
}

// Rebuild makes the table anew, for pods of these networks and with all ports taken, in one transaction: nobody sees it half made,
// and flows go on.
func (t *Table) Rebuild(pods []netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pods = slices.Clone(pods)
	if err := t.rebuild(); err != nil {
		return fmt.Errorf("make nft table %s: %w", t.name, err)
	}
	return nil
}

// elementsAtOnce keeps a message below the 64 KiB that an attribute's length can say.
const elementsAtOnce = 200

func (t *Table) rebuild() error {
	t.conn.AddTable(t.rules.table) // so that there is one to delete
	t.conn.DelTable(t.rules.table)
	for _, s := range t.rules.sets() {
		s.ID = 0
	}
	if err := t.rules.add(t.conn, t.pods); err != nil {
		return err
	}
	bySet := map[*nftables.Set][]nftables.SetElement{}
	for _, e := range t.registry.all() {
		s := t.rules.set(e)
		bySet[s] = append(bySet[s], e.element())
	}
	for s, elements := range bySet {
		for chunk := range slices.Chunk(elements, elementsAtOnce) {
			if err := t.conn.SetAddElements(s, chunk); err != nil {
				return err
			}
		}
	}
	err := t.flush()
	for _, s := range t.rules.sets() {
		s.ID = 0 // valid within its transaction only; later ones go by name
	}
	return err
}

// Delete removes the table. None is fine.
func (t *Table) Delete() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn.AddTable(t.rules.table)
	t.conn.DelTable(t.rules.table)
	if err := t.flush(); err != nil {
		return fmt.Errorf("delete nft table %s: %w", t.name, err)
	}
	return nil
}

// Differences compares the kernel's table with what it should be and says how they differ; with mend it makes it anew if they do.
func (t *Table) Differences(mend bool) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, err := t.differences()
	if err != nil {
		return nil, fmt.Errorf("read nft table %s: %w", t.name, err)
	}
	if found == nil || !mend {
		return found, nil
	}
	if err := t.rebuild(); err != nil {
		return nil, fmt.Errorf("make nft table %s anew: %w", t.name, err)
	}
	return found, nil
}

// differences tells what the kernel's table has too much and too little.
func (t *Table) differences() ([]string, error) {
	if there, err := t.exists(); err != nil || !there {
		return []string{"nft table " + t.name + ": is gone"}, err
	}
	want := map[entry]bool{}
	for _, e := range t.registry.all() {
		want[e] = true
	}
	var found []string
	for _, s := range []*nftables.Set{t.rules.ports4, t.rules.anyports4, t.rules.ports6, t.rules.anyports6} {
		elements, err := t.conn.GetSetElements(s)
		if err != nil { // no map of that name, most likely: then the table is not as we make it
			return []string{fmt.Sprintf("nft table %s: map %s cannot be read (%v)", t.name, s.Name, err)}, t.redial()
		}
		for _, v := range elements {
			e, ok := parse(v, s == t.rules.ports6 || s == t.rules.anyports6)
			if ok && want[e] {
				delete(want, e)
				continue
			}
			found = append(found, fmt.Sprintf("nft table %s: has port %d of sandbox %q, which is not there", t.name, e.HostPort, e.Owner))
		}
	}
	for e := range want {
		found = append(found, fmt.Sprintf("nft table %s: misses port %d of sandbox %s", t.name, e.HostPort, e.Owner))
	}
	return found, nil
}

// Exists says whether the kernel has the table.
func (t *Table) Exists() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.exists()
}

func (t *Table) exists() (bool, error) {
	tables, err := t.list()
	return slices.Contains(tables, t.name), err
}

func (t *Table) list() (names []string, err error) {
	tables, err := t.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("list nft tables: %w", err), t.redial())
	}
	for _, o := range tables {
		names = append(names, o.Name)
	}
	return names, nil
}

// Others lists the tables of other instances.
func (t *Table) Others() ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names, err := t.list()
	return slices.DeleteFunc(names, func(n string) bool { return n == t.name || !strings.HasPrefix(n, prefix) }), err
}
