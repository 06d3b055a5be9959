package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// fabric is the network that joins the nodes: a bridge on the host, which has the first addresses.
type fabric struct {
	bridge      string
	host, host6 netip.Addr
}

// newFabric makes the bridge with a network of 198.18.0.0/15, which RFC 2544 sets apart for tests, that no link of the host has.
func newFabric(ctx context.Context, bridge string) (*fabric, error) {
	host, err := freeAddress()
	if err != nil {
		return nil, err
	}
	f := &fabric{bridge: bridge, host: host, host6: sixOf(host)}
	if err := run(ctx, "ip", "link", "add", bridge, "type", "bridge"); err != nil {
		return nil, err
	}
	err = errors.Join(
		run(ctx, "ip", "addr", "add", host.String()+"/24", "dev", bridge),
		run(ctx, "ip", "addr", "add", f.host6.String()+"/64", "dev", bridge, "nodad"),
		run(ctx, "ip", "link", "set", bridge, "up"),
	)
	if err != nil {
		return nil, errors.Join(err, f.remove(context.WithoutCancel(ctx)))
	}
	return f, nil
}

func freeAddress() (netip.Addr, error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
next:
	for n := range 256 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(n), 1}), 24)
		for _, u := range used {
			if p, err := netip.ParsePrefix(u.String()); err == nil && p.Overlaps(prefix) {
				continue next
			}
		}
		return prefix.Addr(), nil
	}
	return netip.Addr{}, errors.New("find a network for the nodes: all of 198.18.0.0/16 is in use")
}

// sixOf is the IPv6 address that goes with an IPv4 one of the fabric.
func sixOf(four netip.Addr) netip.Addr {
	a := four.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x01, 3: 0x98, 5: 0x18, 7: a[2], 15: a[3]}) // fd00:198:18:N::
}

// node are the addresses of the nth node.
func (f *fabric) node(n int) []netip.Addr {
	a := f.host.As4()
	a[3] += byte(n) + 1
	four := netip.AddrFrom4(a)
	return []netip.Addr{four, sixOf(four)}
}

// plug joins the network namespace of a process to the bridge. The link is named after the bridge and the node, and is eth0 inside.
func (f *fabric) plug(ctx context.Context, pid int, name string, addresses []netip.Addr) error {
	link, inside := f.bridge+name, strconv.Itoa(pid)
	in := func(args ...string) error {
		return run(ctx, append([]string{"nsenter", "--net", "--target", inside, "ip"}, args...)...)
	}
	if err := run(ctx, "ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", inside); err != nil {
		return err
	}
	err := errors.Join(
		run(ctx, "ip", "link", "set", link, "master", f.bridge, "up"),
		in("link", "set", "lo", "up"),
		in("addr", "add", addresses[0].String()+"/24", "dev", "eth0"),
		in("addr", "add", addresses[1].String()+"/64", "dev", "eth0", "nodad"),
		in("link", "set", "eth0", "up"),
		in("route", "add", "default", "via", f.host.String()),
		in("route", "add", "default", "via", f.host6.String()),
	)
	if err != nil {
		return fmt.Errorf("plug in node %s: %w", name, err)
	}
	return nil
}

// unplug takes a node's link away: of itself it would go some time after the namespace that holds its other end. None is fine.
func (f *fabric) unplug(ctx context.Context, name string) {
	run(ctx, "ip", "link", "delete", f.bridge+name)
}

// remove takes the bridge away.
func (f *fabric) remove(ctx context.Context) error { return run(ctx, "ip", "link", "delete", f.bridge) }
