package builtin

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/lease"
	"fermata/internal/network/nettest"
	"fermata/internal/network/rtnl"
)

func all(string) bool  { return true }
func none(string) bool { return false }

func TestAttachingTwiceIsAttachingOnce(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	one := m.attach(b, "one", endpoint.PortMapping{ContainerPort: 80, HostPort: 8080})
	again := func(b *Bridge) {
		t.Helper()
		r, err := b.Attach(t.Context(), endpoint.Attachment{SandboxID: "one", NetNS: one.ns, Ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080}}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.IPs, one.IPs) || r.HostInterface != one.HostInterface || r.MAC.String() != one.MAC.String() {
			t.Errorf("again: %+v, want %+v", r, one.Result)
		}
	}
	again(b)
	m.serve(one.ns, "tcp", 80, "one")
	m.wants("before the restart", m.outside, "tcp", hostIP4, 8080, "one", outsideIP4)
	restarted := m.open()
	m.wants("after the restart", m.outside, "tcp", hostIP4, 8080, "one", outsideIP4)
	again(restarted)
	m.wants("after attaching again", m.outside, "tcp", hostIP4, 8080, "one", outsideIP4)
	if found, err := restarted.Reconcile(t.Context(), all); err != nil || len(found) != 0 {
		t.Errorf("reconciling found %q, %v", found, err)
	}
	m.detach(restarted, "one")
	m.detach(restarted, "one") // unknown by now
	m.clean(restarted)
}

func TestASandboxInANewNamespaceIsConnectedAnew(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	one := m.attach(b, "one")
	again := m.attach(b, "one")
	if !slices.Equal(again.IPs, one.IPs) {
		t.Errorf("addresses %v, had %v", again.IPs, one.IPs)
	}
	m.serve(again.ns, "tcp", 80, "new")
	m.wants("the new namespace", m.host, "tcp", one.ip4(), 80, "new", nothing)
	m.detach(b, "one")
	m.clean(b)
}

func TestManyAtOnceLeaveNothing(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	const pods = 200
	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	var wg sync.WaitGroup
	spaces := make([]*linux.FD, 20)
	for i := range spaces {
		spaces[i] = nettest.Bare(t)
	}
	for worker, ns := range spaces {
		wg.Go(func() {
			for i := range pods / len(spaces) {
				id := fmt.Sprintf("pod-%d-%d", worker, i)
				r, err := b.Attach(t.Context(), endpoint.Attachment{
					SandboxID: id, NetNS: ns, Ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: uint16(10000 + worker*100 + i)}},
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, ip := range r.IPs {
					if seen[ip] != "" {
						t.Errorf("%s has %s, which %s had: given again too early", id, ip, seen[ip])
					}
					seen[ip] = id
				}
				mu.Unlock()
				if rand.IntN(2) == 0 { // twice at once
					wg.Go(func() {
						if err := b.Detach(t.Context(), id); err != nil {
							t.Error(err)
						}
					})
				}
				if err := b.Detach(t.Context(), id); err != nil {
					t.Error(err)
				}
				if _, err := b.host.Link(r.HostInterface); !errors.Is(err, syscall.ENODEV) {
					t.Errorf("link of %s after Detach: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != 2*pods {
		t.Errorf("%d addresses given, want %d", len(seen), 2*pods)
	}
	m.clean(b)
}

func TestTheSameSandboxFromManySides(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	ns := nettest.Bare(t)
	results := make([]*endpoint.Result, 20)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			var err error
			if results[i], err = b.Attach(t.Context(), endpoint.Attachment{SandboxID: "one", NetNS: ns}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		if r == nil || !slices.Equal(r.IPs, results[0].IPs) {
			t.Fatalf("%+v and %+v for one sandbox", r, results[0])
		}
	}
	m.detach(b, "one")
	m.clean(b)
}

// Write-ahead: wherever the daemon dies, the next one finds what it left, and either finishes or frees it.
func TestACrashAtEachStepIsMended(t *testing.T) {
	steps := []struct {
		name string
		do   func(b *Bridge, r *lease.Record, ns *linux.FD) error
	}{
		{"after the lease", func(b *Bridge, r *lease.Record, ns *linux.FD) error { return nil }},
		{"after creating the link", func(b *Bridge, r *lease.Record, ns *linux.FD) error {
			return b.host.Do(rtnl.CreateVeth(rtnl.Veth{
				Host: r.HostInterface, HostMAC: hostMAC(r.Addresses[0].Addr()), Peer: "eth0", PeerMAC: podMAC(r.Addresses[0].Addr()),
				NetNS: ns, Bridge: b.index, MTU: b.mtu,
			}))
		}},
		{"after naming the link", func(b *Bridge, r *lease.Record, ns *linux.FD) error {
			pod, err := dialPod(b.home, ns)
			if err != nil {
				return err
			}
			defer pod.Close()
			return b.createVeth(t.Context(), r, ns, pod)
		}},
		{"after the addresses", func(b *Bridge, r *lease.Record, ns *linux.FD) error {
			pod, err := dialPod(b.home, ns)
			if err != nil {
				return err
			}
			defer pod.Close()
			return errors.Join(b.createVeth(t.Context(), r, ns, pod), configurePod(pod, r))
		}},
		{"after the ports", func(b *Bridge, r *lease.Record, ns *linux.FD) error {
			var u = undoNothing()
			return b.connect(t.Context(), r, ns, u)
		}},
	}
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			m := newMachine(t)
			a := endpoint.Attachment{SandboxID: "one", NetNS: nettest.Bare(t), Ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080}}}
			crash := func() *lease.Record {
				b := m.open()
				r, err := b.lease(&a, undoNothing())
				if err == nil {
					err = s.do(b, r, a.NetNS)
				}
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			r := crash()
			next := m.open()
			got, err := next.Attach(t.Context(), a) // the same request again
			if err != nil || !slices.Equal(got.IPs, r.IPs()) {
				t.Fatalf("the same request after the crash: %+v, %v, want %v", got, err, r.IPs())
			}
			m.serve(a.NetNS, "tcp", 80, "one")
			m.wants("finished", m.outside, "tcp", hostIP6, 8080, "one", outsideIP6)
			m.detach(next, "one")
			m.clean(next)

			crash()
			next = m.open()
			found, err := next.Reconcile(t.Context(), none)
			if err != nil || len(found) != 1 || !strings.Contains(told(found), "one") {
				t.Errorf("reconciling found %q, %v, want the lease", found, err)
			}
			m.clean(next)
		})
	}
}

func TestAFailedAttachLeavesNothing(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	ns := nettest.Bare(t)
	taken := m.attach(b, "taken", endpoint.PortMapping{ContainerPort: 80, HostPort: 8080}, endpoint.PortMapping{ContainerPort: 81, HostPort: 8081, HostIP: hostIP4})
	other, err := linux.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	port := func(p endpoint.PortMapping) endpoint.Attachment {
		return endpoint.Attachment{SandboxID: "bad", NetNS: ns, Ports: []endpoint.PortMapping{p}}
	}
	for _, c := range []struct {
		name string
		a    endpoint.Attachment
		kind errs.Kind
	}{
		{"no namespace", endpoint.Attachment{SandboxID: "bad"}, errs.InvalidArgument},
		{"no ID", endpoint.Attachment{NetNS: ns}, errs.InvalidArgument},
		{"an ID that leads elsewhere", endpoint.Attachment{SandboxID: "../x", NetNS: ns}, errs.InvalidArgument},
		{"what is no namespace", endpoint.Attachment{SandboxID: "bad", NetNS: other}, errs.Internal},
		{"an unknown protocol", port(endpoint.PortMapping{Protocol: "icmp", ContainerPort: 1, HostPort: 1}), errs.InvalidArgument},
		{"no container port", port(endpoint.PortMapping{HostPort: 1}), errs.InvalidArgument},
		{"a port at [::1]", port(endpoint.PortMapping{ContainerPort: 1, HostPort: 1, HostIP: netip.IPv6Loopback()}), errs.Unimplemented},
		{"one port to two", endpoint.Attachment{SandboxID: "bad", NetNS: ns, Ports: []endpoint.PortMapping{
			{ContainerPort: 1, HostPort: 1}, {ContainerPort: 2, HostPort: 1}}}, errs.InvalidArgument},
		{"a port that another pod has", port(endpoint.PortMapping{ContainerPort: 1, HostPort: 8080}), errs.AlreadyExists},
		{"a port that another has at every address", port(endpoint.PortMapping{ContainerPort: 1, HostPort: 8080, HostIP: hostIP4}), errs.AlreadyExists},
		{"a port at every address that another has at one", port(endpoint.PortMapping{ContainerPort: 1, HostPort: 8081}), errs.AlreadyExists},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := b.Attach(t.Context(), c.a)
			if !errs.Is(err, c.kind) || r != nil {
				t.Errorf("got %+v, %v (%s), want %s", r, err, errs.KindOf(err), c.kind)
			}
			if got := b.leases.All(); len(got) != 1 || len(m.links()) != 2 {
				t.Errorf("leases %v, links %v are left", got, m.links())
			}
		})
	}
	for _, p := range []endpoint.PortMapping{
		{ContainerPort: 80, HostPort: 8081, HostIP: netip.MustParseAddr("127.0.0.1")}, // another address
		{ContainerPort: 80, HostPort: 8080, Protocol: "udp"},                          // another protocol
	} {
		m.attach(b, "good", p)
		m.detach(b, "good")
	}
	m.detach(b, taken.id)
	m.attach(b, "good", endpoint.PortMapping{ContainerPort: 80, HostPort: 8080}) // free again
	m.detach(b, "good")
	m.clean(b)
}

func TestAnExhaustedSubnetSaysSoAndRecovers(t *testing.T) {
	m := newMachine(t)
	b := m.open(func(o *Options) { o.Subnet = "10.77.0.0/29" })
	var pods []*pod
	for i := range 5 { // eight, without network, gateway and broadcast
		pods = append(pods, m.attach(b, fmt.Sprint("pod", i)))
	}
	if err := b.Status(); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("status of an exhausted network: %v", err)
	}
	ns := nettest.Bare(t)
	_, err := b.Attach(t.Context(), endpoint.Attachment{SandboxID: "sixth", NetNS: ns})
	if !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), "all 5 of [10.77.0.0/29") || !strings.Contains(err.Error(), "5 pods") {
		t.Errorf("the sixth pod: %v", err)
	}
	m.detach(b, "pod2")
	if err := b.Status(); err != nil {
		t.Errorf("status with an address free: %v", err)
	}
	if again := m.attach(b, "sixth"); again.ip4() != pods[2].ip4() {
		t.Errorf("got %s, only %s was free", again.ip4(), pods[2].ip4())
	}
	for _, id := range []string{"pod0", "pod1", "pod3", "pod4", "sixth"} {
		m.detach(b, id)
	}
	m.clean(b)
}

func TestAddressesAreGivenAgainAsLateAsPossible(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	first := m.attach(b, "pod").ip4()
	m.detach(b, "pod")
	if next := m.attach(b, "pod").ip4(); next != first.Next() {
		t.Errorf("got %s after %s", next, first)
	}
	m.detach(b, "pod")
	b = m.open()
	if next := m.attach(b, "pod").ip4(); next.Compare(first.Next()) <= 0 {
		t.Errorf("after a restart got %s, which was given before", next)
	}
	m.detach(b, "pod")
	m.clean(b)
}

// told is what differences say, a line each.
func told(found []endpoint.Difference) string {
	var lines []string
	for _, d := range found {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}

func TestReconcileMendsWhatOthersBroke(t *testing.T) {
	port := endpoint.PortMapping{ContainerPort: 80, HostPort: 8080}
	nft := func(m *machine, do func(c *nftables.Conn, table *nftables.Table)) {
		c, err := nftables.New(nftables.WithNetNSFd(m.host.Int()))
		if err != nil {
			m.t.Fatal(err)
		}
		do(c, &nftables.Table{Name: "fermata-test", Family: nftables.TableFamilyINet})
		if err := c.Flush(); err != nil {
			m.t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		destroy func(m *machine, b *Bridge, p *pod)
		found   string
	}{
		{"the table was flushed with all rules", func(m *machine, b *Bridge, p *pod) {
			nft(m, func(c *nftables.Conn, _ *nftables.Table) { c.FlushRuleset() })
		}, "is gone"},
		{"an element was removed", func(m *machine, b *Bridge, p *pod) {
			nft(m, func(c *nftables.Conn, table *nftables.Table) {
				c.FlushSet(&nftables.Set{Name: "anyports4", Table: table})
			})
		}, "misses port 8080"},
		{"an element was added", func(m *machine, b *Bridge, p *pod) {
			nft(m, func(c *nftables.Conn, table *nftables.Table) {
				key := []byte{6, 0, 0, 0, 0, 99, 0, 0}
				value := append(p.ip4().AsSlice(), 0, 99, 0, 0)
				if err := c.SetAddElements(&nftables.Set{Name: "anyports4", Table: table}, []nftables.SetElement{{Key: key, Val: value, Comment: "ghost"}}); err != nil {
					t.Error(err)
				}
			})
		}, "ghost"},
		{"the bridge was deleted", func(m *machine, b *Bridge, p *pod) {
			if err := b.host.Do(rtnl.DeleteLink(b.name)); err != nil {
				t.Error(err)
			}
		}, "bridge fermata0: is gone"},
		{"the gateway's address was deleted", func(m *machine, b *Bridge, p *pod) {
			if err := b.host.Do(rtnl.DeleteAddress(b.name, b.index, netip.PrefixFrom(p.Gateways[0], 16))); err != nil {
				t.Error(err)
			}
		}, "misses address"},
		{"forwarding was turned off", func(m *machine, b *Bridge, p *pod) {
			m.setSysctl(forwarding4, "0")
			if err := b.Status(); !errs.Is(err, errs.Unavailable) {
				t.Errorf("status without forwarding: %v", err)
			}
		}, "forwarding"},
		{"the link was taken from the bridge", func(m *machine, b *Bridge, p *pod) {
			if err := b.host.Do(rtnl.SetMaster(p.HostInterface, 0)); err != nil {
				t.Error(err)
			}
		}, "is no port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			b := m.open()
			p := m.attach(b, "one", port)
			m.serve(p.ns, "tcp", 80, "one")
			c.destroy(m, b, p)
			for range 2 { // looking changes nothing
				examined, err := b.Examine(t.Context(), all)
				if err != nil || !strings.Contains(told(examined), c.found) {
					t.Errorf("examined %q, %v, want %q", examined, err, c.found)
				}
			}
			found, err := b.Reconcile(t.Context(), all)
			if err != nil || !strings.Contains(told(found), c.found) {
				t.Errorf("found %q, %v, want %q", found, err, c.found)
			}
			if examined, err := b.Examine(t.Context(), all); err != nil || len(examined) != 0 {
				t.Errorf("examined after mending: %q, %v", examined, err)
			}
			m.wants("after mending", m.outside, "tcp", hostIP4, 8080, "one", outsideIP4)
			m.wants("after mending, by 127.0.0.1", m.host, "tcp", netip.MustParseAddr("127.0.0.1"), 8080, "one", nothing)
			if err := b.Status(); err != nil {
				t.Error(err)
			}
			m.detach(b, "one")
			m.clean(b)
		})
	}
}

func TestAttachAfterTheRulesWereFlushed(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	c, err := nftables.New(nftables.WithNetNSFd(m.host.Int()))
	if err != nil {
		t.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := b.Status(); !errs.Is(err, errs.Unavailable) {
		t.Errorf("status without table: %v", err)
	}
	p := m.attach(b, "one", endpoint.PortMapping{ContainerPort: 80, HostPort: 8080})
	m.serve(p.ns, "tcp", 80, "one")
	m.wants("the port", m.outside, "tcp", hostIP4, 8080, "one", outsideIP4)
	m.detach(b, "one")
	m.clean(b)
}

func TestRecordsThatAreLostOrBroken(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	lost, broken, kept := m.attach(b, "lost"), m.attach(b, "broken"), m.attach(b, "kept")
	leases := filepath.Join(m.dir, "leases")
	if err := errors.Join(os.Remove(filepath.Join(leases, "lost.json")), os.WriteFile(filepath.Join(leases, "broken.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b = m.open()
	found, err := b.Reconcile(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	text := told(found)
	for _, want := range []string{"broken.json", lost.HostInterface, broken.HostInterface} {
		if !strings.Contains(text, want) {
			t.Errorf("found %q, want %q in it", found, want)
		}
	}
	m.serve(kept.ns, "tcp", 80, "kept")
	m.wants("the pod whose record is well", m.host, "tcp", kept.ip4(), 80, "kept", nothing)
	m.detach(b, "kept")
	for _, l := range m.links() {
		if l.Name != b.name {
			t.Errorf("link %s left", l.Name)
		}
	}
}

func TestAPodWhoseNamespaceIsGone(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	ns := nettest.Bare(t)
	r, err := b.Attach(t.Context(), endpoint.Attachment{SandboxID: "one", NetNS: ns, Ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080}}})
	if err != nil {
		t.Fatal(err)
	}
	ns.Close() // the last reference: the kernel takes its links away, some time
	m.detach(b, "one")
	if _, err := b.host.Link(r.HostInterface); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("its link: %v", err)
	}
	m.clean(b)
}

// A UDP sender that goes on sending from one port must reach the pod that has the host port now, not the one that had it.
func TestUDPFlowsFollowTheHostPort(t *testing.T) {
	m := newMachine(t)
	b := m.open()
	asker := m.udpAsker(m.outside, hostIP4, 5353)
	if answer, err := asker(300 * time.Millisecond); err == nil { // makes a flow that knows no redirection
		t.Errorf("answered %q before there was a pod", answer)
	}
	port := endpoint.PortMapping{Protocol: "udp", ContainerPort: 53, HostPort: 5353}
	for _, name := range []string{"one", "two"} {
		p := m.attach(b, name, port)
		m.serve(p.ns, "udp", 53, name)
		if answer, err := asker(patience); err != nil || !strings.HasPrefix(answer, name) {
			t.Errorf("answered %q, %v, want %s", answer, err, name)
		}
		m.detach(b, name)
	}
	m.serve(m.host, "udp", 5353, "host") // a flow that still led to the pod would not come here
	if answer, err := asker(patience); err != nil || !strings.HasPrefix(answer, "host") {
		t.Errorf("after the pods answered %q, %v, want host", answer, err)
	}
	m.clean(b)
}

func TestLoopbackAndCounters(t *testing.T) {
	m := newMachine(t)
	ns := nettest.Bare(t)
	m.refuses("lo down", ns, "tcp", netip.MustParseAddr("127.0.0.1"), 80)
	if err := Loopback(ns); err != nil {
		t.Fatal(err)
	}
	m.serve(ns, "tcp", 80, "self")
	m.wants("lo up", ns, "tcp", netip.MustParseAddr("127.0.0.1"), 80, "self", nothing)

	b := m.open()
	p := m.attach(b, "one")
	m.serve(p.ns, "tcp", 80, "one")
	m.wants("the pod", m.host, "tcp", p.ip4(), 80, "one", nothing)
	counters, err := Interfaces(p.ns)
	if err != nil || len(counters) != 1 {
		t.Fatalf("counters %+v, %v", counters, err)
	}
	if c := counters[0]; c.Name != "eth0" || c.RxBytes < 200 || c.TxBytes < 200 || c.RxPackets < 4 || c.RxErrors != 0 {
		t.Errorf("counters %+v", c)
	}
	m.flood(p.ip4(), 20, 1000) // to the pod: the host's end sends what the pod receives
	stats, err := b.Stats()
	if got := stats["one"]; err != nil || len(stats) != 1 || got.Name != "eth0" || got.RxBytes < 20_000 || got.TxBytes >= got.RxBytes {
		t.Errorf("stats %+v, %v, counters %+v", stats, err, counters[0])
	}
	m.detach(b, "one")
}
