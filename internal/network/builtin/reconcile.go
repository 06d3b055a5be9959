package builtin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"fermata/internal/network/lease"
	"fermata/internal/network/rtnl"
)

// Reconcile removes what belongs to no live sandbox and puts back what live ones miss at the host. live must say yes to pods that are being
// made.
func (b *Bridge) Reconcile(ctx context.Context, live func(string) bool) ([]string, error) {
	b.mu.Lock()
	found := b.notes
	b.notes = nil
	b.mu.Unlock()
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	var failed []error
	fail := func(err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	// Links first: one that has no lease afterwards never gets one, as a lease is there before its link.
	links, err := b.host.Links()
	if err != nil {
		return found, fmt.Errorf("reconcile network: %w", err)
	}
	for _, r := range b.leases.All() {
		if !live(r.SandboxID) {
			fail(b.free(ctx, r, live, say))
		}
	}
	fail(b.orphans(ctx, links, say))
	fail(b.mendShared(links, say))
	mended, err := b.table.Mend()
	found = append(found, mended...)
	fail(err)
	fail(b.mendPorts(say))
	if err := errors.Join(failed...); err != nil {
		return found, fmt.Errorf("reconcile network: %w", err)
	}
	return found, nil
}

// free takes back what a sandbox that is gone has.
func (b *Bridge) free(ctx context.Context, r *lease.Record, live func(string) bool, say func(string, ...any)) error {
	defer b.busy.lock(r.SandboxID)()
	if b.leases.Get(r.SandboxID) != r || live(r.SandboxID) {
		return nil // changed while waiting
	}
	if err := b.detach(ctx, r.SandboxID); err != nil {
		return err
	}
	say("lease of %s (pod %s/%s, %v): sandbox is gone, freed", r.SandboxID, r.PodNamespace, r.PodName, r.IPs())
	return nil
}

// orphans removes host interfaces without a lease.
func (b *Bridge) orphans(ctx context.Context, links []*rtnl.Link, say func(string, ...any)) error {
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
	if err := b.remover.remove(ctx, names...); err != nil {
		return err
	}
	for _, n := range names {
		say("link %s: belonged to no sandbox, removed", n)
	}
	return nil
}

// mendShared makes the bridge anew if it is gone, turns forwarding on if somebody turned it off, and mends the bridge's addresses.
func (b *Bridge) mendShared(links []*rtnl.Link, say func(string, ...any)) error {
	b.mu.RLock()
	closed, index := b.closed, b.index
	b.mu.RUnlock()
	if closed {
		return nil
	}
	i := slices.IndexFunc(links, func(l *rtnl.Link) bool { return l.Name == b.name })
	if i < 0 || links[i].Index != index || !links[i].Up {
		say("bridge %s: was gone or down, made anew", b.name)
		b.localnetMu.Lock()
		b.localnet = false
		b.localnetMu.Unlock()
		if err := b.setup(); err != nil {
			return err
		}
	}
	b.mu.Lock()
	changed, err := b.forward()
	b.mu.Unlock()
	if changed {
		say("forwarding of packets: was off, turned on")
	}
	if err != nil {
		return err
	}
	return b.mendAddresses(say)
}

// mendAddresses gives the bridge the addresses it should have and no others.
func (b *Bridge) mendAddresses(say func(string, ...any)) error {
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
			say("bridge %s: address %s of a former pod network removed", b.name, a.Prefix)
		}
	}
	for _, p := range wanted {
		gateway := netip.PrefixFrom(lease.Gateway(p), p.Bits())
		if !slices.Contains(addresses, rtnl.Address{Link: index, Prefix: gateway}) {
			requests = append(requests, rtnl.AddAddress(b.name, index, gateway))
			say("bridge %s: missing address %s added", b.name, gateway)
		}
	}
	if len(requests) == 0 {
		return nil
	}
	return errors.Join(b.host.Do(requests...), b.table.Rebuild(wanted))
}

// mendPorts makes the leased host interfaces ports of the bridge again: a bridge that was deleted let go of them.
func (b *Bridge) mendPorts(say func(string, ...any)) error {
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
		if err := b.host.Do(rtnl.SetMaster(l.Name, index), rtnl.SetBridgePort(l.Name, alias(b.options.Instance, r.SandboxID))); err != nil {
			failed = append(failed, err)
			continue
		}
		say("link %s of %s: was no port of bridge %s, is again", l.Name, r.SandboxID, b.name)
	}
	return errors.Join(failed...)
}
