package builtin

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/nettest"
	"fermata/internal/network/rtnl"
	"fermata/internal/undo"
)

// patience bounds what must happen; nothing waits for it that works.
const patience = 5 * time.Second

// machine is a host in a namespace of its own, with a neighbour 192.0.2.9 / 2001:db8::9 to which it has its default routes.
type machine struct {
	t             testing.TB
	host, outside *linux.FD
	dir           string
}

var (
	hostIP4, hostIP6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	outsideIP4       = netip.MustParseAddr("192.0.2.9")
	outsideIP6       = netip.MustParseAddr("2001:db8::9")
	nothing          netip.Addr
)

func newMachine(t testing.TB) *machine {
	t.Helper()
	host := nettest.Namespace(t)
	outside := nettest.Neighbour(t, host, "up0",
		[]netip.Prefix{netip.PrefixFrom(hostIP4, 24), netip.PrefixFrom(hostIP6, 64)},
		[]netip.Prefix{netip.PrefixFrom(outsideIP4, 24), netip.PrefixFrom(outsideIP6, 64)})
	return &machine{t, host, outside, t.TempDir()}
}

// open starts the network with what it had left on disk.
func (m *machine) open(change ...func(*Options)) *Bridge {
	m.t.Helper()
	b, err := m.tryOpen(change...)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

func (m *machine) tryOpen(change ...func(*Options)) (*Bridge, error) {
	o := Options{Dir: m.dir, Instance: "test", HostNetNS: m.host}
	for _, c := range change {
		c(&o)
	}
	b, err := Open(o)
	if err == nil {
		m.t.Cleanup(func() {
			if err := b.Close(); err != nil {
				m.t.Error(err)
			}
		})
	}
	return b, err
}

// pod is a namespace with the addresses it was given.
type pod struct {
	id string
	ns *linux.FD
	*endpoint.Result
}

func (p *pod) ip4() netip.Addr { return p.IPs[0] }
func (p *pod) ip6() netip.Addr { return p.IPs[1] }

func (m *machine) attach(b *Bridge, id string, ports ...endpoint.PortMapping) *pod {
	m.t.Helper()
	p := &pod{id: id, ns: nettest.Bare(m.t)}
	r, err := b.Attach(m.t.Context(), endpoint.Attachment{SandboxID: id, NetNS: p.ns, Ports: ports})
	if err != nil {
		m.t.Fatal(err)
	}
	p.Result = r
	return p
}

func (m *machine) detach(b *Bridge, id string) {
	m.t.Helper()
	if err := b.Detach(m.t.Context(), id); err != nil {
		m.t.Fatal(err)
	}
}

// serve answers each connection or datagram at a port of a namespace with the asker's address and the name, until the test ends.
func (m *machine) serve(ns *linux.FD, protocol string, port uint16, name string) {
	m.t.Helper()
	address := fmt.Sprintf(":%d", port)
	done := make(chan struct{})
	var stop func() error
	nettest.In(m.t, ns, func() {
		if protocol == "udp" {
			c, err := net.ListenPacket("udp", address)
			if err != nil {
				m.t.Error(err)
				return
			}
			stop = c.Close
			go func() {
				defer close(done)
				buf := make([]byte, 100)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					c.WriteTo([]byte(name+" "+from.(*net.UDPAddr).IP.String()+"\n"), from)
				}
			}()
			return
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			m.t.Error(err)
			return
		}
		stop = l.Close
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}
		}()
	})
	if stop == nil {
		m.t.FailNow()
	}
	m.t.Cleanup(func() { stop(); <-done })
}

// ask connects from a namespace and returns what the server says: its name, and who it thinks is asking.
func (m *machine) ask(ns *linux.FD, protocol string, ip netip.Addr, port uint16) (answer string, err error) {
	return m.askFor(ns, protocol, ip, port, patience)
}

func (m *machine) askFor(ns *linux.FD, protocol string, ip netip.Addr, port uint16, limit time.Duration) (answer string, err error) {
	m.t.Helper()
	nettest.In(m.t, ns, func() {
		// a plain dial: no racing goroutines, which would leave the namespace
		network := protocol + "4"
		if ip.Is6() {
			network = protocol + "6"
		}
		var c net.Conn
		c, err = (&net.Dialer{Timeout: limit, FallbackDelay: -1}).Dial(network, netip.AddrPortFrom(ip, port).String())
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		if protocol == "udp" {
			if _, err = io.WriteString(c, "?"); err != nil {
				return
			}
		}
		answer, err = bufio.NewReader(c).ReadString('\n')
		answer = strings.TrimSpace(answer)
	})
	return answer, err
}

// wants asks and compares the server's name and, where valid, who it saw asking.
func (m *machine) wants(what string, ns *linux.FD, protocol string, ip netip.Addr, port uint16, name string, from netip.Addr) {
	m.t.Helper()
	answer, err := m.ask(ns, protocol, ip, port)
	if err != nil {
		m.t.Errorf("%s: %v", what, err)
		return
	}
	who, saw, _ := strings.Cut(answer, " ")
	if who != name || from.IsValid() && saw != from.String() {
		m.t.Errorf("%s: answered by %q which saw %s, want %q and %s", what, who, saw, name, from)
	}
}

// refuses asks and wants no answer.
func (m *machine) refuses(what string, ns *linux.FD, protocol string, ip netip.Addr, port uint16) {
	m.t.Helper()
	if answer, err := m.askFor(ns, protocol, ip, port, 300*time.Millisecond); err == nil {
		m.t.Errorf("%s: answered %q, want none", what, answer)
	}
}

// links lists the machine's links but those that are always there.
func (m *machine) links() []*rtnl.Link {
	m.t.Helper()
	var all []*rtnl.Link
	nettest.In(m.t, m.host, func() {
		s, err := linux.NetlinkSocket(linux.NetlinkRoute)
		if err != nil {
			m.t.Error(err)
			return
		}
		c := rtnl.New(s)
		defer c.Close()
		links, err := c.Links()
		if err != nil {
			m.t.Error(err)
		}
		for _, l := range links {
			if l.Name != "lo" && l.Name != "up0" {
				all = append(all, l)
			}
		}
	})
	return all
}

func (m *machine) sysctl(path string) string {
	m.t.Helper()
	var v string
	nettest.In(m.t, m.host, func() {
		var err error
		if v, err = readSysctl(path); err != nil {
			m.t.Error(err)
		}
	})
	return v
}

func (m *machine) setSysctl(path, value string) {
	m.t.Helper()
	nettest.In(m.t, m.host, func() {
		if err := writeSysctl(path, value); err != nil {
			m.t.Error(err)
		}
	})
}

// clean fails the test if anything of a pod is left: links but the bridge, leases, elements.
func (m *machine) clean(b *Bridge) {
	m.t.Helper()
	for _, l := range m.links() {
		if l.Name != b.name {
			m.t.Errorf("link %s (%s) left", l.Name, l.Alias)
		}
	}
	files, err := os.ReadDir(filepath.Join(m.dir, "leases"))
	if err != nil {
		m.t.Error(err)
	}
	for _, f := range files {
		m.t.Errorf("file %s left", f.Name())
	}
	if found, err := b.Reconcile(m.t.Context(), func(string) bool { return true }); err != nil || len(found) != 0 {
		m.t.Errorf("found on reconciling: %q, %v", found, err)
	}
}

// undoNothing is a stack that a crash takes along.
func undoNothing() *undo.Stack { return &undo.Stack{} }

// udpAsker sends from one port, each time it is called, and returns the next answer.
func (m *machine) udpAsker(ns *linux.FD, ip netip.Addr, port uint16) func(time.Duration) (string, error) {
	m.t.Helper()
	var c net.Conn
	nettest.In(m.t, ns, func() {
		var err error
		if c, err = net.Dial("udp", netip.AddrPortFrom(ip, port).String()); err != nil {
			m.t.Error(err)
		}
	})
	m.t.Cleanup(func() { c.Close() })
	return func(limit time.Duration) (string, error) {
		c.SetDeadline(time.Now().Add(limit))
		buf := make([]byte, 100)
		for {
			if _, err := c.Write([]byte("?")); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				return "", err
			}
			n, err := c.Read(buf)
			if errors.Is(err, syscall.ECONNREFUSED) && limit < patience {
				return "", err
			}
			if err == nil || !errors.Is(err, syscall.ECONNREFUSED) { // refused: what an earlier datagram met
				return string(buf[:n]), err
			}
		}
	}
}

// flood sends datagrams from the host that nobody listens for.
func (m *machine) flood(ip netip.Addr, count, size int) {
	m.t.Helper()
	nettest.In(m.t, m.host, func() {
		c, err := net.ListenPacket("udp", ":0")
		if err != nil {
			m.t.Error(err)
			return
		}
		defer c.Close()
		for range count {
			if _, err := c.WriteTo(make([]byte, size), net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 9))); err != nil {
				m.t.Error(err)
			}
		}
	})
}
