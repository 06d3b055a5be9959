package daemon

import (
	"fermata/internal/network"
	"fermata/internal/stats"
)

// Counters gives the traffic of every pod on the node's network, by sandbox.
func (n *podNetwork) Counters() (map[string][]stats.Interface, error) {
	counted, err := n.network.Stats()
	if err != nil {
		return nil, err
	}
	all := make(map[string][]stats.Interface, len(counted))
	for id, c := range counted {
		all[id] = []stats.Interface{interfaceOf(c)}
	}
	return all, nil
}

func interfaceOf(c network.Counters) stats.Interface {
	return stats.Interface{
		Name:    c.Name,
		RxBytes: c.RxBytes, RxPackets: c.RxPackets, RxErrors: c.RxErrors, RxDropped: c.RxDropped,
		TxBytes: c.TxBytes, TxPackets: c.TxPackets, TxErrors: c.TxErrors, TxDropped: c.TxDropped,
	}
}
