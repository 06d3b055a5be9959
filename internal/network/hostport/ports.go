package hostport

import (
	"cmp"
	"net/netip"
	"slices"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/network/endpoint"
)

// entry is one element of one map: packets to Host (every local address if it is not valid) and HostPort go to Pod and PodPort.
type entry struct {
	Protocol uint8
	Host     netip.Addr
	HostPort uint16
	Pod      netip.Addr
	PodPort  uint16
	// Owner is the sandbox.
	Owner string
}

var protocols = map[string]uint8{
	"": syscall.IPPROTO_TCP, "tcp": syscall.IPPROTO_TCP, "udp": syscall.IPPROTO_UDP, "sctp": 132,
}

// plan turns what a pod asks for into entries, one for each family it concerns. Port 0 at the host is no mapping.
func plan(owner string, pod []netip.Addr, ports []endpoint.PortMapping) ([]entry, error) {
	var all []entry
	for _, m := range ports {
		if m.HostPort == 0 {
			continue
		}
		protocol, ok := protocols[m.Protocol]
		if !ok {
			return nil, errs.New(errs.InvalidArgument, "host port %s: protocol %q, want tcp, udp or sctp", m, m.Protocol)
		}
		if m.ContainerPort == 0 {
			return nil, errs.New(errs.InvalidArgument, "host port %s: no container port", m)
		}
		host := m.HostIP.Unmap().WithZone("")
		if host == netip.IPv6Loopback() {
			return nil, errs.New(errs.Unimplemented, "host port %s: Linux cannot redirect [::1]", m)
		}
		any := !host.IsValid() || host.IsUnspecified()
		before := len(all)
		for _, ip := range pod {
			if host.IsValid() && host.Is4() != ip.Is4() {
				continue
			}
			e := entry{Protocol: protocol, HostPort: m.HostPort, Pod: ip, PodPort: m.ContainerPort, Owner: owner}
			if !any {
				e.Host = host
			}
			all = append(all, e)
		}
		if len(all) == before {
			return nil, errs.New(errs.InvalidArgument, "host port %s: the pod has no address of that family", m)
		}
	}
	return withoutTwins(all)
}

// withoutTwins drops entries asked for twice and refuses those that contradict each other.
func withoutTwins(all []entry) ([]entry, error) {
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.HostPort, b.HostPort), a.Pod.Compare(b.Pod), a.Host.Compare(b.Host))
	})
	all = slices.Compact(all)
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		if a.Protocol == b.Protocol && a.HostPort == b.HostPort && a.Pod == b.Pod && a.Host == b.Host {
			return nil, errs.New(errs.InvalidArgument, "host port %d: asked for twice, to container ports %d and %d", a.HostPort, a.PodPort, b.PodPort)
		}
	}
	return all, nil
}

// loopback says whether the entry can be reached by 127.0.0.1, which only route_localnet lets out of the host.
func (e entry) loopback() bool {
	return e.Pod.Is4() && (!e.Host.IsValid() || e.Host.IsLoopback())
}

// place is what at most one pod may have, but for its address.
type place struct {
	v6       bool
	protocol uint8
	port     uint16
}

func (e entry) place() place { return place{e.Pod.Is6(), e.Protocol, e.HostPort} }

// registry knows who has which port. It is not safe for concurrent use.
type registry struct {
	places map[place][]entry
	owners map[string][]entry
	// loopbacks counts entries that need route_localnet.
	loopbacks int
}

func newRegistry() *registry {
	return &registry{places: map[place][]entry{}, owners: map[string][]entry{}}
}

// take records a pod's entries, all or none. The same ones again are fine. A port at every address excludes one at any address, as with bind(2).
func (r *registry) take(owner string, want []entry) error {
	if slices.Equal(r.owners[owner], want) {
		return nil
	}
	for _, e := range want {
		for _, other := range r.places[e.place()] {
			if other.Owner != owner && (!e.Host.IsValid() || !other.Host.IsValid() || e.Host == other.Host) {
				return errs.New(errs.AlreadyExists, "host port %d (protocol %d): pod %s has it already", e.HostPort, e.Protocol, other.Owner)
			}
		}
	}
	r.drop(owner)
	for _, e := range want {
		r.places[e.place()] = append(r.places[e.place()], e)
		if e.loopback() {
			r.loopbacks++
		}
	}
	if len(want) != 0 {
		r.owners[owner] = want
	}
	return nil
}

// drop forgets a pod's entries and returns them.
func (r *registry) drop(owner string) []entry {
	had := r.owners[owner]
	for _, e := range had {
		left := slices.DeleteFunc(r.places[e.place()], func(o entry) bool { return o.Owner == owner })
		if len(left) == 0 {
			delete(r.places, e.place())
		} else {
			r.places[e.place()] = left
		}
		if e.loopback() {
			r.loopbacks--
		}
	}
	delete(r.owners, owner)
	return had
}

// all lists every entry.
func (r *registry) all() []entry {
	var all []entry
	for _, es := range r.owners {
		all = append(all, es...)
	}
	return all
}
