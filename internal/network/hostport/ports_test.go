package hostport

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"

	"fermata/internal/errs"
	"fermata/internal/network/endpoint"
)

var (
	four, six = netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")
	both      = []netip.Addr{four, six}
)

func (e entry) String() string {
	host := "*"
	if e.Host.IsValid() {
		host = e.Host.String()
	}
	return fmt.Sprintf("%d %s:%d→%s:%d", e.Protocol, host, e.HostPort, e.Pod, e.PodPort)
}

func TestPlan(t *testing.T) {
	ip := netip.MustParseAddr
	for _, c := range []struct {
		name  string
		pod   []netip.Addr
		ports []endpoint.PortMapping
		want  string
		kind  errs.Kind
	}{
		{name: "no ports", pod: both},
		{name: "every address of both families", pod: both, ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080}},
			want: "6 *:8080→10.0.0.2:80; 6 *:8080→fd00::2:80"},
		{name: "a pod with one family", pod: both[1:], ports: []endpoint.PortMapping{{Protocol: "udp", ContainerPort: 53, HostPort: 5353}},
			want: "17 *:5353→fd00::2:53"},
		{name: "every IPv4 address", pod: both, ports: []endpoint.PortMapping{{Protocol: "sctp", ContainerPort: 80, HostPort: 8080, HostIP: ip("0.0.0.0")}},
			want: "132 *:8080→10.0.0.2:80"},
		{name: "every IPv6 address", pod: both, ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080, HostIP: ip("::")}},
			want: "6 *:8080→fd00::2:80"},
		{name: "one address, written as IPv6", pod: both, ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080, HostIP: ip("::ffff:192.0.2.1")}},
			want: "6 192.0.2.1:8080→10.0.0.2:80"},
		{name: "no host port", pod: both, ports: []endpoint.PortMapping{{ContainerPort: 80}}},
		{name: "twice the same", pod: both[:1], ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080}, {Protocol: "tcp", ContainerPort: 80, HostPort: 8080}},
			want: "6 *:8080→10.0.0.2:80"},
		{name: "two addresses of one port to two ports", pod: both[:1], ports: []endpoint.PortMapping{
			{ContainerPort: 80, HostPort: 8080, HostIP: ip("192.0.2.1")}, {ContainerPort: 81, HostPort: 8080, HostIP: ip("192.0.2.2")}},
			want: "6 192.0.2.1:8080→10.0.0.2:80; 6 192.0.2.2:8080→10.0.0.2:81"},
		{name: "one port to two", pod: both, kind: errs.InvalidArgument,
			ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 81, HostPort: 8080}}},
		{name: "a host address of a family that the pod has not", pod: both[:1], kind: errs.InvalidArgument,
			ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080, HostIP: ip("2001:db8::1")}}},
		{name: "a protocol nobody knows", pod: both, kind: errs.InvalidArgument, ports: []endpoint.PortMapping{{Protocol: "TCP ", ContainerPort: 80, HostPort: 8080}}},
		{name: "IPv6's loopback", pod: both, kind: errs.Unimplemented, ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080, HostIP: ip("::1")}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := plan("pod", c.pod, c.ports)
			if c.kind != errs.Internal {
				if !errs.Is(err, c.kind) {
					t.Errorf("got %v, %v, want %s", got, err, c.kind)
				}
				return
			}
			if err != nil || joined(got) != c.want {
				t.Errorf("got %s, %v, want %s", joined(got), err, c.want)
			}
		})
	}
}

func joined(all []entry) string {
	var parts []string
	for _, e := range all {
		parts = append(parts, e.String())
	}
	return strings.Join(parts, "; ")
}

func TestRegistry(t *testing.T) {
	r := newRegistry()
	take := func(owner string, m endpoint.PortMapping) error {
		want, err := plan(owner, both, []endpoint.PortMapping{m})
		if err != nil {
			t.Fatal(err)
		}
		return r.take(owner, want)
	}
	at := func(host string) endpoint.PortMapping {
		return endpoint.PortMapping{ContainerPort: 1, HostPort: 80, HostIP: netip.MustParseAddr(host)}
	}
	if err := take("a", at("192.0.2.1")); err != nil || r.loopbacks != 0 {
		t.Fatal(err, r.loopbacks)
	}
	if err := take("a", at("192.0.2.1")); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := take("b", at("192.0.2.2")); err != nil {
		t.Errorf("another address: %v", err)
	}
	if err := take("c", at("::")); err != nil {
		t.Errorf("the other family: %v", err)
	}
	if err := take("d", at("0.0.0.0")); !errs.Is(err, errs.AlreadyExists) || !strings.Contains(err.Error(), "port 80") {
		t.Errorf("every address: %v", err)
	}
	r.drop("a")
	r.drop("b")
	if err := take("d", at("0.0.0.0")); err != nil || r.loopbacks != 1 {
		t.Errorf("every address when free: %v, %d by the loopback", err, r.loopbacks)
	}
	if err := take("a", at("127.0.0.1")); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("one address of those taken: %v", err)
	}
	r.drop("d")
	r.drop("c")
	if len(r.places) != 0 || len(r.owners) != 0 || r.loopbacks != 0 || len(r.drop("nobody")) != 0 {
		t.Errorf("left: %+v", r)
	}
}

func TestElementsAreReadAsWritten(t *testing.T) {
	for _, e := range []entry{
		{Protocol: 6, HostPort: 8080, Pod: four, PodPort: 80, Owner: "a"},
		{Protocol: 17, Host: netip.MustParseAddr("192.0.2.1"), HostPort: 1, Pod: four, PodPort: 65535, Owner: "b"},
		{Protocol: 132, HostPort: 65535, Pod: six, PodPort: 1, Owner: strings.Repeat("c", 64)},
		{Protocol: 6, Host: netip.MustParseAddr("2001:db8::1"), HostPort: 8080, Pod: six, PodPort: 80, Owner: "d"},
	} {
		if got, ok := parse(e.element(), e.Pod.Is6()); !ok || got != e {
			t.Errorf("got %+v, want %+v", got, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{6, 0, 0, 0, 0, 80, 0, 0}, []byte{10, 0, 0, 2, 0, 80, 0, 0}, false)
	f.Add(make([]byte, 24), make([]byte, 20), true)
	f.Fuzz(func(t *testing.T, key, value []byte, v6 bool) {
		e, ok := parse(nftables.SetElement{Key: key, Val: value}, v6)
		if !ok {
			return
		}
		if e.Pod.Is6() != v6 || e.Host.IsValid() && e.Host.Is6() != v6 {
			t.Errorf("%v of the wrong family", e)
		}
		if again := e.element(); !bytes.Equal(again.Key[len(again.Key)-4:len(again.Key)-2], key[len(key)-4:len(key)-2]) {
			t.Errorf("port of %x became %x", key, again.Key)
		}
	})
}

func TestInterval(t *testing.T) {
	for _, c := range [][3]string{
		{"10.1.2.3/16", "10.1.0.0", "10.2.0.0"},
		{"10.255.0.0/16", "10.255.0.0", "11.0.0.0"},
		{"10.0.0.4/30", "10.0.0.4", "10.0.0.8"},
		{"10.0.0.255/32", "10.0.0.255", "10.0.1.0"},
		{"255.255.0.0/16", "255.255.0.0", "0.0.0.0"},
		{"fd00::/64", "fd00::", "fd00:0:0:1::"},
		{"fdff:ffff::/32", "fdff:ffff::", "fe00::"},
	} {
		got := interval(netip.MustParsePrefix(c[0]))
		first, last := netip.MustParseAddr(c[1]), netip.MustParseAddr(c[2])
		if !slices.Equal(got[0].Key, first.AsSlice()) || !slices.Equal(got[1].Key, last.AsSlice()) || !got[1].IntervalEnd {
			t.Errorf("%s: %v", c[0], got)
		}
	}
}
