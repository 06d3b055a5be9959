package builtin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"fermata/internal/network/endpoint"
	"fermata/internal/network/lease"
	"fermata/internal/network/rtnl"
)

// Reconcile removes what belongs to no live sandbox and puts back what live ones miss at the host. live must say yes to pods that are being
// made.
func (b *Bridge) Reconcile(ctx context.Context, live func(string) bool) ([]endpoint.Difference, error) {
	return b.inspect(ctx, inspection{live: live, mend: true})
}

// Examine tells what Reconcile would mend, and changes nothing.
func (b *Bridge) Examine(ctx context.Context, live func(string) bool) ([]endpoint.Difference, error) {
	return b.inspect(ctx, inspection{live: live})
}

// inspection is one look at everything; it mends what it finds, or only tells.
type inspection struct {
	live  func(sandboxID string) bool
	mend  bool
	found []endpoint.Difference
}

func (i *inspection) say(mend, format string, args ...any) {
	i.found = append(i.found, endpoint.Difference{What: fmt.Sprintf(format, args...), Mend: mend})
}

func (b *Bridge) inspect(ctx context.Context, i inspection) ([]endpoint.Difference, error) {
	if i.mend {
		b.mu.Lock()
		for _, n := range b.notes {
			i.say("set aside", "%s", n)
		}
		b.notes = nil
		b.mu.Unlock()
	}
	var failed []error
	fail := func(err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	// Links first: one that has no lease afterwards never gets one, as a lease is there before its link.
	links, err := b.host.Links()
	if err != nil {
		return i.found, fmt.Errorf("reconcile network: %w", err)
	}
	for _, r := range b.leases.All() {
		if !i.live(r.SandboxID) {
			fail(b.free(ctx, r, &i))
		}
	}
	fail(b.orphans(ctx, links, &i))
	fail(b.mendShared(links, &i))
	differences, err := b.table.Differences(i.mend)
	for _, d := range differences {
		i.say("made anew", "%s", d)
	}
	fail(err)
	fail(b.mendPorts(&i))
	if err := errors.Join(failed...); err != nil {
		return i.found, fmt.Errorf("reconcile network: %w", err)
	}
	return i.found, nil
}

// free takes back what a sandbox that is gone has.
func (b *Bridge) free(ctx context.Context, r *lease.Record, i *inspection) error {
	defer b.busy.Lock(r.SandboxID)()
	if b.leases.Get(r.SandboxID) != r || i.live(r.SandboxID) {
		return nil // changed while waiting
	}
	if i.mend {
		if err := b.detach(ctx, r.SandboxID); err != nil {
			return err
		}
	}
	i.say("freed", "lease of %s (pod %s/%s, %v): sandbox is gone", r.SandboxID, r.PodNamespace, r.PodName, r.IPs())
	return nil
}

// orphans removes host interfaces without a lease.
func (b *Bridge) orphans(ctx context.Context, links []*rtnl.Link, i *inspection) error {
	leased := map[string]bool{}
	for _, r := range b.leases.All() {
		leased[r.HostInterface] = true
	}
	var names []string
	for _, l := range links {
		if l.Kind == "veth" && ours(b.options.Instance, l.Name, l.Alias) && !leased[l.Name] {
			if _, err := b.host.Link(l.Name); err != nil {
				continue // went with its lease just now
			}
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if i.mend {
		if err := b.remover.remove(ctx, names...); err != nil {
			return err
		}
	}
	for _, n := range names {
		i.say("removed", "link %s: belongs to no sandbox", n)
	}
	return nil
}

// mendShared makes the bridge anew if it is gone, turns forwarding on if somebody turned it off, and mends the bridge's addresses.
func (b *Bridge) mendShared(links []*rtnl.Link, i *inspection) error {
	b.mu.RLock()
	closed, index := b.closed, b.index
	b.mu.RUnlock()
	if closed {
		return nil
	}
	at := slices.IndexFunc(links, func(l *rtnl.Link) bool { return l.Name == b.name })
	if at < 0 || links[at].Index != index || !links[at].Up {
		i.say("made anew", "bridge %s: is gone or down", b.name)
		if !i.mend {
			return nil
		}
		b.localnetMu.Lock()
		b.localnet = false
		b.localnetMu.Unlock()
		if err := b.setup(); err != nil {
			return err
		}
	}
	if err := b.mendForwarding(i); err != nil {
		return err
	}
	return b.mendAddresses(i)
}

func (b *Bridge) mendForwarding(i *inspection) error {
	off, err := false, error(nil)
	if i.mend {
		b.mu.Lock()
		off, err = b.forward()
		b.mu.Unlock()
	} else {
		err = b.home.Visit(b.hostNS, func() error {
			four, err := readSysctl(forwarding4)
			off = four != "1"
			return err
		})
	}
	if off {
		i.say("turned on", "forwarding of packets: is off")
	}
	return err
}

// mendAddresses gives the bridge the addresses it should have and no others.
func (b *Bridge) mendAddresses(i *inspection) error {
	addresses, err := b.host.Addresses()
	if err != nil {
		return err
	}
	b.mu.RLock()
	wanted, index := b.podNetworks(), b.index
	b.mu.RUnlock()
	var requests []*rtnl.Request
	for _, a := range addresses {
		if a.Link == index && !a.Prefix.Addr().IsLinkLocalUnicast() && !slices.Contains(wanted, a.Prefix.Masked()) {
			requests = append(requests, rtnl.DeleteAddress(b.name, index, a.Prefix))
			i.say("removed", "bridge %s: has address %s of a former pod network", b.name, a.Prefix)
		}
	}
	for _, p := range wanted {
		gateway := netip.PrefixFrom(lease.Gateway(p), p.Bits())
		if !slices.Contains(addresses, rtnl.Address{Link: index, Prefix: gateway}) {
			requests = append(requests, rtnl.AddAddress(b.name, index, gateway))
			i.say("added", "bridge %s: misses address %s", b.name, gateway)
		}
	}
	if len(requests) == 0 || !i.mend {
		return nil
	}
	return errors.Join(b.host.Do(requests...), b.table.Rebuild(wanted))
}

// mendPorts makes the leased host interfaces ports of the bridge again: a bridge that was deleted let go of them.
func (b *Bridge) mendPorts(i *inspection) error {
	links, err := b.host.Links()
	if err != nil {
		return err
	}
	b.mu.RLock()
	closed, index := b.closed, b.index
	b.mu.RUnlock()
	if closed {
		return nil
	}
	byName := map[string]*rtnl.Link{}
	for _, l := range links {
		byName[l.Name] = l
	}
	var failed []error
	for _, r := range b.leases.All() {
		l := byName[r.HostInterface]
		if _, attached := b.connectedTo(r.SandboxID); l == nil || !attached && l.Alias == "" || l.Master == index && l.Up {
			continue // none: the sandbox's namespace is gone or about to be, which is not for us to mend
		}
		if i.mend {
			if err := b.host.Do(rtnl.SetMaster(l.Name, index), rtnl.SetBridgePort(l.Name, alias(b.options.Instance, r.SandboxID))); err != nil {
				failed = append(failed, err)
				continue
			}
		}
		i.say("made one again", "link %s of %s: is no port of bridge %s", l.Name, r.SandboxID, b.name)
	}
	return errors.Join(failed...)
}
