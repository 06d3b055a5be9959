package hostport

import (
	"fmt"
	"net"
	"syscall"

	conntrack "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// whichFlows says which memories of connections an entry's coming or going makes wrong.
type whichFlows int

const (
	// toHostPort are those that were sent to the host's port.
	toHostPort whichFlows = iota
	// toPod are those that were redirected to the pod.
	toPod
)

// forgetFlows makes the kernel forget UDP flows of entries. A UDP flow never ends as long as its sender goes on, and keeps the
// redirection it began with: without this a resolver would talk to a pod that is gone, or miss one that came.
func (t *Table) forgetFlows(entries []entry, which whichFlows) error {
	byFamily := map[conntrack.InetFamily][]conntrack.CustomConntrackFilter{}
	for _, e := range entries {
		if e.Protocol != syscall.IPPROTO_UDP {
			continue
		}
		f := &conntrack.ConntrackFilter{}
		family := conntrack.InetFamily(syscall.AF_INET)
		if e.Pod.Is6() {
			family = syscall.AF_INET6
		}
		err := f.AddProtocol(e.Protocol)
		if err == nil {
			err = f.AddPort(conntrack.ConntrackOrigDstPort, e.HostPort)
		}
		if err == nil && which == toPod {
			err = f.AddIP(conntrack.ConntrackReplySrcIP, net.IP(e.Pod.AsSlice()))
		}
		if err != nil {
			return fmt.Errorf("select UDP flows of port %d: %w", e.HostPort, err)
		}
		byFamily[family] = append(byFamily[family], f)
	}
	if len(byFamily) == 0 {
		return nil
	}
	h, err := conntrack.NewHandleAt(netns.NsHandle(t.host.Int()), syscall.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer h.Close()
	for family, filters := range byFamily {
		if _, err := h.ConntrackDeleteFilters(conntrack.ConntrackTable, family, filters...); err != nil {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
	}
	return nil
}
