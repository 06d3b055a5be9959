package network

import (
	"errors"
	"fmt"
	"os"

	"fermata/internal/linux"
	"fermata/internal/network/builtin"
)

// Counters are an interface's totals since it was made.
type Counters = builtin.Counters

// Stats gives the counters of every connected pod's interfaces, the default one first, by sandbox. An error is about some pods, or about one kind of
// network; what could be read is there beside it.
//
// The built-in network is asked at the host, one question for all pods. What plugins make of a pod only its namespace knows: there may be no link
// at the host (macvlan, ipvlan), or several interfaces. Such a pod costs about 60 µs, two thirds of it the kernel's list, so that no socket is kept for the rest.
func (n *Network) Stats() (map[string][]Counters, error) {
	bridged, failed := n.builtin.Stats()
	all := make(map[string][]Counters, len(bridged))
	for id, c := range bridged {
		all[id] = []Counters{c}
	}
	for _, id := range n.plugins.Connected() {
		counted, err := n.plugged(id)
		if failed = errors.Join(failed, err); len(counted) > 0 {
			all[id] = counted
		}
	}
	return all, failed
}

// StatsOf is Stats of one pod; nil of one that is not connected.
func (n *Network) StatsOf(sandboxID string) ([]Counters, error) {
	if n.plugins.Has(sandboxID) {
		return n.plugged(sandboxID)
	}
	bridged, err := n.builtin.Stats()
	if c, ok := bridged[sandboxID]; ok {
		return []Counters{c}, err
	}
	return nil, err
}

// plugged counts in the namespace of a pod that plugins connected; one that they disconnect meanwhile has no interfaces.
func (n *Network) plugged(sandboxID string) ([]Counters, error) {
	path, there := n.plugins.NetNS(sandboxID)
	if !there {
		return nil, nil
	}
	counted, err := interfacesOf(path)
	if _, there := n.plugins.NetNS(sandboxID); err != nil && there {
		return nil, fmt.Errorf("read network counters of sandbox %s: %w", sandboxID, err)
	}
	return counted, nil
}

func interfacesOf(path string) ([]Counters, error) {
	netns, err := linux.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	counted, err := Interfaces(netns)
	return counted, errors.Join(err, netns.Close())
}

// Interfaces returns the counters of a network namespace's interfaces, the default one first: all but lo and what was never used.
func Interfaces(netns *linux.FD) ([]Counters, error) { return builtin.Interfaces(netns) }
