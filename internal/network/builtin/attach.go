package builtin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/lease"
	"fermata/internal/network/rtnl"
	"fermata/internal/undo"
)

// connected is what this process knows of a pod it has connected.
type connected struct {
	// netns is the inode number of its namespace, unique while that lives.
	netns uint64
}

// Attach connects a pod.
func (b *Bridge) Attach(ctx context.Context, a endpoint.Attachment) (_ *endpoint.Result, err error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("attach %s: %w", a.SandboxID, err)
	}
	netns, err := a.NetNS.Inode()
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", a.SandboxID, err)
	}
	defer b.busy.Lock(a.SandboxID)()
	record := b.leases.Get(a.SandboxID)
	if known, there := b.connectedTo(a.SandboxID); record != nil && there && known.netns == netns {
		if _, err := b.host.Link(record.HostInterface); err == nil { // it goes with the namespace, whose number may then be another's
			return result(record), nil
		}
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("attach %s: %w", a.SandboxID, err)
		}
	}()
	var u undo.Stack
	defer u.OnError(ctx, &err)
	if record == nil {
		if err = undo.Step("attach/lease", func() (err error) { record, err = b.lease(&a, &u); return err }); err != nil {
			return nil, err
		}
	}
	if err := b.connect(ctx, record, a.NetNS, &u); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.attached[a.SandboxID] = connected{netns}
	b.mu.Unlock()
	return result(record), nil
}

func (b *Bridge) connectedTo(id string) (connected, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	c, there := b.attached[id]
	return c, there
}

// lease takes addresses and ports, and writes down that it did.
func (b *Bridge) lease(a *endpoint.Attachment, u *undo.Stack) (*lease.Record, error) {
	b.mu.RLock()
	closed, waiting := b.closed, b.waiting()
	b.mu.RUnlock()
	if closed {
		return nil, errs.New(errs.FailedPrecondition, "network of bridge %s: was torn down", b.name)
	}
	if waiting != nil {
		return nil, waiting
	}
	r := &lease.Record{
		SandboxID: a.SandboxID, HostInterface: linkName(b.options.Instance, a.SandboxID), Ports: slices.Clone(a.Ports),
		PodName: a.PodName, PodNamespace: a.PodNamespace, PodUID: a.PodUID, Created: time.Now().UTC(),
	}
	if err := b.leases.Take(r); err != nil {
		return nil, err
	}
	u.Push("lease", func(context.Context) error { return b.leases.Drop(r.SandboxID) })
	if err := b.table.Reserve(r.SandboxID, r.IPs(), r.Ports); err != nil {
		return nil, err
	}
	u.Push("host ports", func(ctx context.Context) error { return b.closePorts(ctx, r.SandboxID) })
	return r, b.leases.Save(r)
}

// connect makes the pod's interface and opens its ports. Everything that it does may have been done before.
func (b *Bridge) connect(ctx context.Context, r *lease.Record, netns *linux.FD, u *undo.Stack) error {
	pod, err := dialPod(b.home, netns)
	if err != nil {
		return err
	}
	defer pod.Close()
	u.Push("link", func(ctx context.Context) error { return b.remover.remove(ctx, r.HostInterface) })
	for _, s := range []struct {
		place string
		do    func() error
	}{
		{"attach/link", func() error { return b.createVeth(ctx, r, netns, pod) }},
		{"attach/addresses", func() error { return configurePod(pod, r) }},
		{"attach/ports", func() error { return errors.Join(b.table.Install(ctx, r.SandboxID), b.updateLocalnet()) }},
	} {
		if err := undo.Step(s.place, s.do); err != nil {
			return err
		}
	}
	return nil
}

// dialPod makes a socket inside the pod, on the way preparing its settings.
func dialPod(home *linux.Home, netns *linux.FD) (*rtnl.Conn, error) {
	var socket *linux.FD
	err := home.Visit(netns, func() (err error) {
		preparePod()
		socket, err = linux.NetlinkSocket(linux.NetlinkRoute)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rtnl.New(socket), nil
}

// createVeth makes the pair. If the names are taken it is ours from before a crash: kept when it leads into this pod, else made anew.
func (b *Bridge) createVeth(ctx context.Context, r *lease.Record, netns *linux.FD, pod *rtnl.Conn) error {
	b.mu.RLock()
	v := rtnl.Veth{
		Host: r.HostInterface, HostMAC: hostMAC(r.Addresses[0].Addr()),
		Peer: endpoint.Interface, PeerMAC: podMAC(r.Addresses[0].Addr()),
		NetNS: netns, Bridge: b.index, MTU: b.mtu,
	}
	b.mu.RUnlock()
	port := rtnl.SetBridgePort(v.Host, alias(b.options.Instance, r.SandboxID))
	err := b.host.Do(rtnl.CreateVeth(v))
	if errors.Is(err, syscall.EEXIST) {
		if peer, missing := pod.Link(v.Peer); missing == nil && peer.MAC.String() == v.PeerMAC.String() && b.isOurs(v.Host, r.SandboxID) {
			return b.host.Do(rtnl.SetMaster(v.Host, v.Bridge), port)
		}
		if err := b.remover.remove(ctx, v.Host); err != nil {
			return err
		}
		err = b.host.Do(rtnl.CreateVeth(v))
	}
	if err != nil {
		return err
	}
	return b.host.Do(port)
}

func (b *Bridge) isOurs(name, sandbox string) bool {
	l, err := b.host.Link(name)
	return err == nil && l.Kind == "veth" && l.Alias == alias(b.options.Instance, sandbox)
}

// configurePod brings up the pod's end, with addresses and routes.
func configurePod(pod *rtnl.Conn, r *lease.Record) error {
	link, err := pod.Link(endpoint.Interface)
	if err != nil {
		return err
	}
	requests := []*rtnl.Request{rtnl.SetUp("lo", loopbackIndex), rtnl.SetUp(link.Name, link.Index)}
	for i, p := range r.Addresses {
		requests = append(requests, rtnl.AddAddress(link.Name, link.Index, p).Or(syscall.EEXIST),
			rtnl.AddDefaultRoute(link.Name, link.Index, r.Gateways[i]))
	}
	return pod.Do(requests...)
}

func result(r *lease.Record) *endpoint.Result {
	return &endpoint.Result{
		Interface: endpoint.Interface, HostInterface: r.HostInterface, IPs: r.IPs(), Gateways: slices.Clone(r.Gateways),
		MAC: podMAC(r.Addresses[0].Addr()),
	}
}

// Has says whether a sandbox has a lease.
func (b *Bridge) Has(sandboxID string) bool { return b.leases.Get(sandboxID) != nil }

// Detach disconnects a pod. The lease goes last: as long as it is there, what is left is found.
func (b *Bridge) Detach(ctx context.Context, id string) error {
	if err := endpoint.CheckID(id); err != nil {
		return err
	}
	defer b.busy.Lock(id)()
	return b.detach(ctx, id)
}

func (b *Bridge) detach(ctx context.Context, id string) error {
	b.mu.Lock()
	delete(b.attached, id)
	b.mu.Unlock()
	err := errors.Join(
		undo.Step("detach/ports", func() error { return b.closePorts(ctx, id) }),
		undo.Step("detach/link", func() error { return b.remover.remove(ctx, linkName(b.options.Instance, id)) }),
	)
	if err == nil {
		err = undo.Step("detach/lease", func() error { return b.leases.Drop(id) })
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	return nil
}

func (b *Bridge) closePorts(ctx context.Context, id string) error {
	if err := b.table.Remove(ctx, id); err != nil {
		return err
	}
	return b.updateLocalnet()
}
