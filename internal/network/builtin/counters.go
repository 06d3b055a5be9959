package builtin

import (
	"fmt"
	"maps"

	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/rtnl"
)

// Loopback brings lo up.
func Loopback(netns *linux.FD) error {
	return visit(netns, func(pod *rtnl.Conn) error { return pod.Do(rtnl.SetUp("lo", loopbackIndex)) })
}

// loopbackIndex is LOOPBACK_IFINDEX, lo in every namespace.
const loopbackIndex = 1

// Counters are an interface's totals since it was made.
type Counters struct {
	// Name is the interface's inside the pod.
	Name string
	rtnl.Stats
}

// Interfaces lists the counters of every interface of a namespace but lo.
func Interfaces(netns *linux.FD) (all []Counters, err error) {
	err = visit(netns, func(pod *rtnl.Conn) error {
		links, err := pod.Links()
		for _, l := range links {
			if !l.Loopback {
				all = append(all, Counters{l.Name, l.Stats})
			}
		}
		return err
	})
	return all, err
}

// visit speaks to a namespace once.
func visit(netns *linux.FD, do func(*rtnl.Conn) error) error {
	home, err := linux.OpenHome()
	if err != nil {
		return err
	}
	defer home.Close()
	pod, err := rtnl.Dial(home, netns)
	if err != nil {
		return err
	}
	defer pod.Close()
	return do(pod)
}

// Stats gives the counters of every connected pod, by sandbox, in one question to the kernel: what the host's ends received is what the
// pods sent.
//
// others are host's ends of pods that somebody else connected, by sandbox.
func (b *Bridge) Stats(others map[string]string) (map[string]Counters, error) {
	links, err := b.host.Links()
	if err != nil {
		return nil, fmt.Errorf("read network counters: %w", err)
	}
	byName := make(map[string]*rtnl.Link, len(links))
	for _, l := range links {
		byName[l.Name] = l
	}
	ends := maps.Clone(others)
	if ends == nil {
		ends = map[string]string{}
	}
	for _, r := range b.leases.All() {
		ends[r.SandboxID] = r.HostInterface
	}
	all := map[string]Counters{}
	for sandbox, name := range ends {
		if l := byName[name]; l != nil {
			h := l.Stats
			all[sandbox] = Counters{endpoint.Interface, rtnl.Stats{
				RxPackets: h.TxPackets, TxPackets: h.RxPackets, RxBytes: h.TxBytes, TxBytes: h.RxBytes,
				RxErrors: h.TxErrors, TxErrors: h.RxErrors, RxDropped: h.TxDropped, TxDropped: h.RxDropped,
			}}
		}
	}
	return all, nil
}
