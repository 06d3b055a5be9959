package builtin

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/nftables"

	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/nettest"
	"fermata/internal/network/rtnl"
)

// RPS-3: what a pod can reach, and who can reach it.
func TestPodsReachAndAreReached(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	one, two := m.attach(b, "one"), m.attach(b, "two")
	m.serve(two.ns, "tcp", 80, "two")
	m.serve(two.ns, "udp", 53, "two")
	m.serve(m.host, "tcp", 8080, "host")
	m.serve(m.outside, "tcp", 80, "outside")
	m.serve(m.outside, "udp", 53, "outside")

	m.wants("pod to pod, IPv4", one.ns, "tcp", two.ip4(), 80, "two", one.ip4())
	m.wants("pod to pod, IPv6", one.ns, "tcp", two.ip6(), 80, "two", one.ip6())
	m.wants("pod to pod, UDP", one.ns, "udp", two.ip4(), 53, "two", one.ip4())
	m.wants("pod to itself by lo", two.ns, "tcp", netip.MustParseAddr("127.0.0.1"), 80, "two", nothing)
	m.wants("pod to itself by lo, IPv6", two.ns, "tcp", netip.IPv6Loopback(), 80, "two", nothing)
	m.wants("pod to gateway, IPv4", one.ns, "tcp", one.Gateways[0], 8080, "host", one.ip4())
	m.wants("pod to gateway, IPv6", one.ns, "tcp", one.Gateways[1], 8080, "host", one.ip6())
	m.wants("pod to the host's address", one.ns, "tcp", hostIP4, 8080, "host", one.ip4())
	m.wants("host to pod, IPv4", m.host, "tcp", two.ip4(), 80, "two", two.Gateways[0])
	m.wants("host to pod, IPv6", m.host, "tcp", two.ip6(), 80, "two", two.Gateways[1])
	m.wants("pod to the world is masqueraded, IPv4", one.ns, "tcp", outsideIP4, 80, "outside", hostIP4)
	m.wants("pod to the world is masqueraded, IPv6", one.ns, "tcp", outsideIP6, 80, "outside", hostIP6)
	m.wants("pod to the world is masqueraded, UDP", one.ns, "udp", outsideIP4, 53, "outside", hostIP4)
	if one.Interface != "eth0" || one.MAC.String() != podMAC(one.ip4()).String() {
		t.Errorf("interface %s with %s", one.Interface, one.MAC)
	}
	if b.mtu != 1400 {
		t.Errorf("MTU %d, want the uplink's 1400", b.mtu)
	}
	nettest.In(t, one.ns, func() { // CVE-2020-10749: a neighbour must not become the gateway by advertising itself
		if v, err := readSysctl("ipv6/conf/eth0/accept_ra"); err != nil || v != "0" {
			t.Errorf("the pod's accept_ra is %q, %v", v, err)
		}
	})
	if v := m.sysctl("ipv6/conf/fermata0/accept_ra"); v != "0" {
		t.Errorf("the bridge's accept_ra is %q", v)
	}
	m.detach(b, "one")
	m.detach(b, "two")
	m.refuses("a pod that is detached", m.host, "tcp", two.ip4(), 80)
	m.clean(b)
}

// Pods see each other's own address, whichever node they are on (kubernetes.io, "The Kubernetes network model").
func TestPodsReachTheRestOfTheClusterWithTheirOwnAddress(t *testing.T) {
	m := newMachine(t)
	b := m.open(func(o *Options) {
		o.Subnet, o.Subnet6 = "10.99.1.0/24", "fd99::1:0/112"
		o.Cluster = "192.0.2.0/24,2001:db8::/64" // outside stands in for another node's pod
	})
	one := m.attach(b, "one")
	m.serve(m.outside, "tcp", 80, "peer")
	m.serve(m.outside, "udp", 53, "peer")
	nettest.DefaultRoute(t, m.outside, "up0", hostIP4) // the way back
	nettest.DefaultRoute(t, m.outside, "up0", hostIP6)
	m.wants("pod to the cluster, IPv4", one.ns, "tcp", outsideIP4, 80, "peer", one.ip4())
	m.wants("pod to the cluster, IPv6", one.ns, "tcp", outsideIP6, 80, "peer", one.ip6())
	m.wants("pod to the cluster, UDP", one.ns, "udp", outsideIP4, 53, "peer", one.ip4())
	m.detach(b, "one")
	m.clean(b)
}

func TestHostPorts(t *testing.T) {
	t.Run("frames in bridges are not filtered", func(t *testing.T) { testHostPorts(t, "0") })
	t.Run("frames in bridges are filtered, as kube-proxy wants it", func(t *testing.T) { testHostPorts(t, "1") })
}

func testHostPorts(t *testing.T, filter string) {
	loop4, loop6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	m := newMachine(t)
	m.setSysctl("bridge/bridge-nf-call-iptables", filter)
	m.setSysctl("bridge/bridge-nf-call-ip6tables", filter)
	b := m.open()
	if v := m.sysctl("ipv4/conf/fermata0/route_localnet"); v != "0" {
		t.Errorf("route_localnet is %s before any host port", v)
	}
	server := m.attach(b, "server",
		endpoint.PortMapping{Protocol: "tcp", ContainerPort: 80, HostPort: 12000},
		endpoint.PortMapping{Protocol: "udp", ContainerPort: 53, HostPort: 12000},
		endpoint.PortMapping{Protocol: "tcp", ContainerPort: 81, HostPort: 12001, HostIP: hostIP4},
		endpoint.PortMapping{Protocol: "tcp", ContainerPort: 81, HostPort: 12002, HostIP: hostIP6},
		endpoint.PortMapping{Protocol: "tcp", ContainerPort: 81, HostPort: 12003, HostIP: loop4},
		endpoint.PortMapping{Protocol: "sctp", ContainerPort: 90, HostPort: 12004},
		endpoint.PortMapping{Protocol: "tcp", ContainerPort: 82}, // no host port: no mapping
	)
	client := m.attach(b, "client")
	m.serve(server.ns, "tcp", 80, "eighty")
	m.serve(server.ns, "tcp", 81, "eightyone")
	m.serve(server.ns, "udp", 53, "dns")
	if v := m.sysctl("ipv4/conf/fermata0/route_localnet"); v != "1" {
		t.Errorf("route_localnet is %s with a port at 127.0.0.1", v)
	}

	m.wants("the world by the host's address", m.outside, "tcp", hostIP4, 12000, "eighty", outsideIP4)
	m.wants("the world by the host's IPv6 address", m.outside, "tcp", hostIP6, 12000, "eighty", outsideIP6)
	m.wants("the world by UDP", m.outside, "udp", hostIP4, 12000, "dns", outsideIP4)
	m.wants("the world by UDP over IPv6", m.outside, "udp", hostIP6, 12000, "dns", outsideIP6)
	m.wants("the host by 127.0.0.1", m.host, "tcp", loop4, 12000, "eighty", nothing)
	m.wants("the host by UDP to 127.0.0.1", m.host, "udp", loop4, 12000, "dns", nothing)
	if _, err := m.ask(m.host, "tcp", loop6, 12000); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the host by [::1]: %v, want to be refused at once", err)
	}
	m.wants("the host by its own address", m.host, "tcp", hostIP4, 12000, "eighty", nothing)
	m.wants("the host by its own IPv6 address", m.host, "tcp", hostIP6, 12000, "eighty", nothing)
	m.wants("another pod", client.ns, "tcp", hostIP4, 12000, "eighty", nothing)
	m.wants("another pod over IPv6", client.ns, "tcp", hostIP6, 12000, "eighty", nothing)
	m.wants("another pod by the gateway", client.ns, "tcp", client.Gateways[0], 12000, "eighty", nothing)
	m.wants("the pod itself (hairpin)", server.ns, "tcp", hostIP4, 12000, "eighty", nothing)
	m.wants("the pod itself (hairpin), IPv6", server.ns, "tcp", hostIP6, 12000, "eighty", nothing)
	m.wants("the pod itself (hairpin), UDP", server.ns, "udp", hostIP4, 12000, "dns", nothing)

	m.wants("a port at one address", m.outside, "tcp", hostIP4, 12001, "eightyone", outsideIP4)
	m.refuses("a port at one address by another", m.host, "tcp", loop4, 12001)
	m.refuses("a port at one IPv4 address by IPv6", m.outside, "tcp", hostIP6, 12001)
	m.wants("a port at one IPv6 address", m.outside, "tcp", hostIP6, 12002, "eightyone", outsideIP6)
	m.refuses("a port at one IPv6 address by IPv4", m.outside, "tcp", hostIP4, 12002)
	m.wants("a port at the loopback only", m.host, "tcp", loop4, 12003, "eightyone", nothing)
	m.refuses("a port at the loopback only from outside", m.outside, "tcp", hostIP4, 12003)
	m.refuses("a container port without a host port", m.outside, "tcp", hostIP4, 82)

	m.detach(b, "server")
	m.refuses("a port of a pod that is gone", m.outside, "tcp", hostIP4, 12000)
	if v := m.sysctl("ipv4/conf/fermata0/route_localnet"); v != "0" {
		t.Errorf("route_localnet is %s after the last host port", v)
	}
	m.detach(b, "client")
	m.clean(b)
}

// CVE-2020-8558: route_localnet lets whoever is on the link reach services that listen at 127.0.0.1 only.
func TestRouteLocalnetDoesNotOpenTheHostsLoopbackToPods(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	evil := m.attach(b, "evil", endpoint.PortMapping{ContainerPort: 80, HostPort: 12000}) // turns route_localnet on
	m.serve(m.host, "tcp", 10250, "kubelet")
	loop := netip.MustParseAddr("127.0.0.5")
	m.loopbackByGateway(evil)
	m.refuses("127.0.0.5 of the host from a pod", evil.ns, "tcp", loop, 10250)

	c, err := nftables.New(nftables.WithNetNSFd(m.host.Int())) // the attack must work without the guard, or this test shows nothing
	if err != nil {
		t.Fatal(err)
	}
	c.FlushChain(&nftables.Chain{Name: "guard", Table: &nftables.Table{Name: "fermata-test", Family: nftables.TableFamilyINet}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	m.wants("127.0.0.5 of the host from a pod, without guard", evil.ns, "tcp", loop, 10250, "kubelet", evil.ip4())
}

// loopbackByGateway makes a pod send packets for 127.0.0.0/8 to the host, and accept such answers.
func (m *machine) loopbackByGateway(p *pod) {
	m.t.Helper()
	nettest.In(m.t, p.ns, func() {
		s, err := linux.NetlinkSocket(linux.NetlinkRoute)
		if err != nil {
			m.t.Error(err)
			return
		}
		c := rtnl.New(s)
		defer c.Close()
		err = c.Do(rtnl.DeleteAddress("lo", 1, netip.MustParsePrefix("127.0.0.1/8")))
		if err == nil {
			err = writeSysctl("ipv4/conf/all/route_localnet", "1")
		}
		if err != nil {
			m.t.Error(err)
		}
	})
}
