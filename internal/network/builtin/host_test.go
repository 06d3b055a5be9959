package builtin

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"

	"fermata/internal/errs"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/nettest"
	"fermata/internal/network/rtnl"
)

func TestTwoInstancesSideBySide(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	dir := m.dir
	second := m.open(func(o *Options) { o.Instance, o.Bridge, o.Dir = "second", "fermata1", t.TempDir() })
	if b.Ranges()[0].Overlaps(second.Ranges()[0]) || b.Ranges()[1].Overlaps(second.Ranges()[1]) {
		t.Fatalf("networks %v and %v overlap", b.Ranges(), second.Ranges())
	}
	one := m.attach(b, "same", endpoint.PortMapping{ContainerPort: 80, HostPort: 8001})
	two := m.attach(second, "same", endpoint.PortMapping{ContainerPort: 80, HostPort: 8002})
	m.serve(one.ns, "tcp", 80, "one")
	m.serve(two.ns, "tcp", 80, "two")
	m.wants("the first's port", m.outside, "tcp", hostIP4, 8001, "one", outsideIP4)
	m.wants("the second's port", m.outside, "tcp", hostIP4, 8002, "two", outsideIP4)
	m.wants("from one to the other by its host port", one.ns, "tcp", hostIP4, 8002, "two", nothing)
	if _, err := b.Reconcile(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	m.wants("the second's port, after the first has freed all", m.outside, "tcp", hostIP4, 8002, "two", outsideIP4)
	m.dir = dir
	if err := b.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.wants("the second's port, after the first is torn down", m.outside, "tcp", hostIP4, 8002, "two", outsideIP4)
	if v := m.sysctl(forwarding4); v != "1" {
		t.Errorf("ip_forward is %s, but the second instance lives on it", v)
	}
	if err := second.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := m.links(); len(left) != 0 {
		t.Errorf("links left: %v", left)
	}
}

func TestTeardownLeavesTheHostAsItWas(t *testing.T) {
	for _, before := range []string{"0", "1"} {
		t.Run("forwarding was "+before, func(t *testing.T) {
			m := newMachine(t)
			m.setSysctl(forwarding4, before)
			m.setSysctl(forwarding6, before)
			m.open() // a restart must not forget that it was the first start that turned it on
			b := m.open()
			if four, six := m.sysctl(forwarding4), m.sysctl(forwarding6); four != "1" || six != "1" {
				t.Errorf("forwarding is %s, %s", four, six)
			}
			m.attach(b, "one", endpoint.PortMapping{ContainerPort: 80, HostPort: 80})
			if err := b.Teardown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if four, six := m.sysctl(forwarding4), m.sysctl(forwarding6); four != before || six != before {
				t.Errorf("forwarding is %s, %s, was %s", four, six, before)
			}
			c, err := nftables.New(nftables.WithNetNSFd(m.host.Int()))
			if err != nil {
				t.Fatal(err)
			}
			if tables, err := c.ListTables(); err != nil || len(tables) != 0 {
				t.Errorf("tables left: %v, %v", tables, err)
			}
			if left := m.links(); len(left) != 0 {
				t.Errorf("links left: %v", left)
			}
			if _, err := b.Attach(t.Context(), endpoint.Attachment{SandboxID: "late", NetNS: nettest.Bare(t)}); !errs.Is(err, errs.FailedPrecondition) {
				t.Errorf("attach after teardown: %v", err)
			}
			if err := b.Status(); !errs.Is(err, errs.FailedPrecondition) {
				t.Errorf("status after teardown: %v", err)
			}
		})
	}
}

func TestTheKubeletsPodCIDR(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	old := m.attach(b, "old")
	for _, c := range []struct {
		cidr string
		want []string // beginnings
		fail bool
	}{
		{cidr: "10.99.1.0/24", want: []string{"10.99.1."}},
		{cidr: "10.99.2.0/24,2001:db8:77::/64", want: []string{"10.99.2.", "2001:db8:77:"}},
		{cidr: "2001:db8:78::/64,10.99.3.0/24", want: []string{"2001:db8:78:", "10.99.3."}},
		{cidr: "", want: []string{"2001:db8:78:", "10.99.3."}},
		{cidr: "10.99.3.0/33", fail: true, want: []string{"2001:db8:78:", "10.99.3."}},
		{cidr: "10.99.3.0/24,10.99.4.0/24", fail: true, want: []string{"2001:db8:78:", "10.99.3."}},
		{cidr: "10.99.3.0/31", fail: true, want: []string{"2001:db8:78:", "10.99.3."}},
	} {
		err := b.SetPodCIDR(c.cidr)
		if c.fail != errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", c.cidr, err)
		}
		p := m.attach(b, "new")
		if len(p.IPs) != len(c.want) {
			t.Fatalf("after %q: addresses %v, want %v", c.cidr, p.IPs, c.want)
		}
		for i, want := range c.want {
			if !strings.HasPrefix(p.IPs[i].String(), want) {
				t.Errorf("after %q: addresses %v, want %v", c.cidr, p.IPs, c.want)
			}
		}
		m.serve(p.ns, "tcp", 80, "new")
		m.wants("old to new after "+c.cidr, old.ns, "tcp", p.IPs[0], 80, "new", nothing)
		m.detach(b, "new")
	}
	m.serve(m.outside, "tcp", 80, "outside")
	m.wants("the old pod to the world", old.ns, "tcp", outsideIP4, 80, "outside", hostIP4)
	b = m.open()
	if p := m.attach(b, "new"); !strings.HasPrefix(p.IPs[0].String(), "2001:db8:78:") || len(b.podNetworks()) != 4 {
		t.Errorf("after a restart: %v", p.IPs)
	}
	m.detach(b, "new")
	m.detach(b, "old")
	found, err := b.Reconcile(t.Context(), none)
	if err != nil || len(found) == 0 || !strings.Contains(told(found), "former pod network") {
		t.Errorf("addresses of former networks: %q, %v", found, err)
	}
	m.clean(b)

	configured := m.open(func(o *Options) { o.Subnet = "10.55.0.0/16" })
	if err := configured.SetPodCIDR("10.99.9.0/24"); err != nil {
		t.Fatal(err)
	}
	if p := m.attach(configured, "c"); !strings.HasPrefix(p.ip4().String(), "10.55.") {
		t.Errorf("with --subnet the kubelet decides: %v", p.IPs)
	}
	m.detach(configured, "c")
}

func TestANodeOfAClusterWaitsForItsPodCIDR(t *testing.T) {
	m := newMachine(t)
	inCluster := func(o *Options) { o.Cluster = "10.99.0.0/16" }
	b := m.open(inCluster)
	if err := b.Status(); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "10.99.0.0/16") {
		t.Errorf("before the kubelet has told it: %v", err)
	}
	_, err := b.Attach(t.Context(), endpoint.Attachment{SandboxID: "early", NetNS: nettest.Bare(t)})
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("a pod before the kubelet has told it: %v", err)
	}
	m.clean(b)
	if err := b.SetPodCIDR("10.99.7.0/24"); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*Bridge{b, m.open(inCluster)} {
		if err := b.Status(); err != nil {
			t.Errorf("after: %v", err)
		}
		if p := m.attach(b, "one"); !strings.HasPrefix(p.ip4().String(), "10.99.7.") {
			t.Errorf("addresses %v", p.IPs)
		}
		m.detach(b, "one")
		m.clean(b)
	}
	if p := m.attach(m.open(inCluster, func(o *Options) { o.Subnet = "10.99.8.0/24" }), "said"); !strings.HasPrefix(p.ip4().String(), "10.99.8.") {
		t.Errorf("with --subnet: %v", p.IPs)
	}
}

func TestTheChosenSubnetOverlapsNothing(t *testing.T) {
	m := newMachine(t)
	first, err := choose4("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	// a route to a part of what would be chosen
	nettest.Neighbour(t, m.host, "lan0", []netip.Prefix{netip.PrefixFrom(first.Addr().Next(), 24)}, []netip.Prefix{netip.PrefixFrom(first.Addr().Next().Next(), 24)})
	b := m.open()
	if b.Ranges()[0].Overlaps(first) {
		t.Errorf("chose %s, which a link uses", b.Ranges()[0])
	}
	if again := m.open(); !slices.Equal(again.Ranges(), b.Ranges()) {
		t.Errorf("after a restart %v, was %v", again.Ranges(), b.Ranges())
	}
}

func TestFamiliesTurnedOff(t *testing.T) {
	for _, c := range []struct {
		name             string
		subnet, subnet6  string
		families, reason string
	}{
		{name: "IPv4 only", subnet6: None, families: "4"},
		{name: "IPv6 only", subnet: None, families: "6"},
		{name: "none", subnet: None, subnet6: None, reason: "both families"},
		{name: "of the wrong family", subnet: "fd00::/64", reason: "wrong family"},
		{name: "nonsense", subnet: "10.0.0.0/8x", reason: "10.0.0.0/8x"},
		{name: "the loopback", subnet: "127.0.0.0/8", reason: "not a network for pods"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			b, err := m.tryOpen(func(o *Options) { o.Subnet, o.Subnet6 = c.subnet, c.subnet6 })
			if c.reason != "" {
				if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p := m.attach(b, "one", endpoint.PortMapping{ContainerPort: 80, HostPort: 8080})
			if len(p.IPs) != 1 || p.IPs[0].Is4() != (c.families == "4") {
				t.Fatalf("addresses %v", p.IPs)
			}
			m.serve(p.ns, "tcp", 80, "one")
			m.wants("host to pod", m.host, "tcp", p.IPs[0], 80, "one", nothing)
			m.detach(b, "one")
			m.clean(b)
		})
	}
}

func TestAHostWithoutIPv6(t *testing.T) {
	m := newMachine(t)
	m.setSysctl("ipv6/conf/all/disable_ipv6", "1")
	b := m.open()
	p := m.attach(b, "one", endpoint.PortMapping{ContainerPort: 80, HostPort: 8080})
	if len(p.IPs) != 1 || !p.IPs[0].Is4() {
		t.Errorf("addresses %v", p.IPs)
	}
	m.serve(p.ns, "tcp", 80, "one")
	m.wants("the host port", m.outside, "tcp", hostIP4, 8080, "one", outsideIP4)
	m.detach(b, "one")
	m.clean(b)
}

// A host that learnt its IPv6 routes from a router must keep them when it begins to forward.
func TestForwardingKeepsRoutesLearntFromRouters(t *testing.T) {
	m := newMachine(t)
	nettest.In(t, m.host, func() {
		if err := writeSysctl("ipv6/conf/up0/accept_ra", "1"); err != nil {
			t.Error(err)
		}
	})
	b := m.open() // no such route so far: nothing to keep
	if v := m.sysctl("ipv6/conf/up0/accept_ra"); v != "1" {
		t.Errorf("accept_ra is %s without a learnt route", v)
	}
	if err := b.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	nettest.In(t, m.host, func() { // nothing of ours makes such a route
		out, err := exec.Command("ip", "-6", "route", "add", "default", "via", outsideIP6.String(), "proto", "ra", "metric", "512").CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	b = m.open()
	if v := m.sysctl("ipv6/conf/up0/accept_ra"); v != "2" {
		t.Errorf("accept_ra is %s with a learnt route", v)
	}
	if err := b.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := m.sysctl("ipv6/conf/up0/accept_ra"); v != "1" {
		t.Errorf("accept_ra is %s after teardown", v)
	}
}

func TestForeignLinksAreLeftAlone(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	near := linkPrefix("test") + "aaaaaaaaa" // looks like ours, says it is another's
	err := b.host.Do(rtnl.CreateVeth(rtnl.Veth{Host: near, Peer: "x", HostMAC: hostMAC(hostIP4), PeerMAC: podMAC(hostIP4), NetNS: m.outside, MTU: 1400}),
		rtnl.SetMaster(near, b.index), rtnl.SetBridgePort(near, "fermata:other:x"))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := b.Reconcile(t.Context(), none); err != nil || len(found) != 0 {
		t.Errorf("found %q, %v", found, err)
	}
	if _, err := b.host.Link(near); err != nil {
		t.Error(err)
	}
}

func TestABridgeOfSomebodyElseIsNotTaken(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	if err := b.host.Do(rtnl.CreateBridge("br0", hostMAC(hostIP4), 1500)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"br0", "up0", "fermata0"} { // a bridge, a link, the bridge of another instance
		_, err := m.tryOpen(func(o *Options) { o.Bridge, o.Instance, o.Dir = name, "second", t.TempDir() })
		if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
