package builtin

import (
	"fmt"
	"slices"

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

// Interfaces lists the counters of a namespace's interfaces, eth0 first. Left out are lo and what has never been used: the tunnels that some modules
// put into every new namespace.
func Interfaces(netns *linux.FD) (all []Counters, err error) {
	err = visit(netns, func(pod *rtnl.Conn) error {
		links, err := pod.Links()
		for _, l := range links {
			if !l.Loopback && (l.Up || l.Stats != rtnl.Stats{}) {
				all = append(all, Counters{l.Name, l.Stats})
			}
		}
		return err
	})
	slices.SortStableFunc(all, func(a, b Counters) int { return rank(a.Name) - rank(b.Name) })
	return all, err
}

// rank puts the default interface before all others.
func rank(name string) int {
	if name == endpoint.Interface {
		return 0
	}
	return 1
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
func (b *Bridge) Stats() (map[string]Counters, error) {
	links, err := b.host.Links()
	if err != nil {
		return nil, fmt.Errorf("read network counters: %w", err)
	}
	byName := make(map[string]*rtnl.Link, len(links))
	for _, l := range links {
		byName[l.Name] = l
	}
	all := map[string]Counters{}
	for _, r := range b.leases.All() {
		if l := byName[r.HostInterface]; l != nil {
			h := l.Stats
			all[r.SandboxID] = Counters{endpoint.Interface, rtnl.Stats{
				RxPackets: h.TxPackets, TxPackets: h.RxPackets, RxBytes: h.TxBytes, TxBytes: h.RxBytes,
				RxErrors: h.TxErrors, TxErrors: h.RxErrors, RxDropped: h.TxDropped, TxDropped: h.RxDropped,
			}}
		}
	}
	return all, nil
}
