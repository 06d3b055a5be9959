// Package nettest makes network namespaces for tests: one that plays the host, others that play pods or machines next to the host. Nothing in it or
// by it touches the real one.
package nettest

import (
	"net/netip"
	"os"
	"syscall"
	"testing"

	"fermata/internal/linux"
	"fermata/internal/network/rtnl"
)

// Namespace makes a network namespace with lo up, gone at the end of the test.
func Namespace(t testing.TB) *linux.FD {
	t.Helper()
	ns := Bare(t)
	In(t, ns, func() {
		s, err := linux.NetlinkSocket(linux.NetlinkRoute)
		if err != nil {
			t.Error(err)
			return
		}
		c := rtnl.New(s)
		defer c.Close()
		if err := c.Do(rtnl.SetUp("lo", 1)); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// Bare makes a network namespace as the kernel does, lo down.
func Bare(t testing.TB) *linux.FD {
	t.Helper()
	var ns *linux.FD
	err := linux.OnThrowAwayThread(func() (err error) {
		if err = syscall.Unshare(linux.CloneNewNet); err != nil {
			return err
		}
		ns, err = linux.Open("/proc/thread-self/ns/net", os.O_RDONLY, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// In runs do inside a namespace. Sockets that do makes stay there.
func In(t testing.TB, ns *linux.FD, do func()) {
	t.Helper()
	err := linux.OnThrowAwayThread(func() error {
		if err := ns.Setns(linux.CloneNewNet); err != nil {
			return err
		}
		do()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Neighbour puts a machine next to the host: a veth pair between them, the host's end with hostAddress, the other with address, and a
// default route at the host by it.
func Neighbour(t testing.TB, host *linux.FD, link string, hostAddress, address []netip.Prefix) *linux.FD {
	t.Helper()
	outside := Namespace(t)
	home, err := linux.OpenHome()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	h, err := rtnl.Dial(home, host)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	o, err := rtnl.Dial(home, outside)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	pair := rtnl.CreateVeth(rtnl.Veth{
		Host: link, Peer: link, HostMAC: []byte{2, 0, 0, 0, 9, 1}, PeerMAC: []byte{2, 0, 0, 0, 9, 2}, NetNS: outside, MTU: 1400,
	})
	if err := h.Do(pair); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		c         *rtnl.Conn
		addresses []netip.Prefix
	}{{h, hostAddress}, {o, address}} {
		l, err := end.c.Link(link)
		if err != nil {
			t.Fatal(err)
		}
		requests := []*rtnl.Request{rtnl.SetUp(link, l.Index)}
		for _, a := range end.addresses {
			requests = append(requests, rtnl.AddAddress(link, l.Index, a))
		}
		if err := end.c.Do(requests...); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range address {
		DefaultRoute(t, host, link, a.Addr())
	}
	return outside
}

// DefaultRoute sends what a namespace has no other route for to a gateway at a link.
func DefaultRoute(t testing.TB, ns *linux.FD, link string, gateway netip.Addr) {
	t.Helper()
	home, err := linux.OpenHome()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	c, err := rtnl.Dial(home, ns)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.Link(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(rtnl.AddDefaultRoute(link, l.Index, gateway)); err != nil {
		t.Fatal(err)
	}
}
