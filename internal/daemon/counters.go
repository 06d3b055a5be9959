package daemon

import (
	"fermata/internal/network"
	"fermata/internal/stats"
)

// Counters gives the traffic of every pod's interfaces, by sandbox.
func (n *podNetwork) Counters() (map[string][]stats.Interface, error) {
	counted, err := n.network.Stats()
	all := make(map[string][]stats.Interface, len(counted))
	for id, c := range counted {
		all[id] = interfacesOf(c)
	}
	return all, err
}

// CountersOf gives those of one pod.
func (n *podNetwork) CountersOf(sandboxID string) ([]stats.Interface, error) {
	counted, err := n.network.StatsOf(sandboxID)
	return interfacesOf(counted), err
}

func interfacesOf(counted []network.Counters) (all []stats.Interface) {
	for _, c := range counted {
		all = append(all, stats.Interface{
			Name:    c.Name,
			RxBytes: c.RxBytes, RxPackets: c.RxPackets, RxErrors: c.RxErrors, RxDropped: c.RxDropped,
			TxBytes: c.TxBytes, TxPackets: c.TxPackets, TxErrors: c.TxErrors, TxDropped: c.TxDropped,
		})
	}
	return all
}
