package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"

	"fermata/internal/linux"
)

// Link is a network interface.
type Link struct {
	Index, MTU int
	Name       string
	// Alias is the free text beside the name.
	Alias string
	// Kind is "bridge", "veth", …; "" for hardware and lo.
	Kind string
	// Master is the index of the bridge it is a port of, 0 for none.
	Master   int
	MAC      net.HardwareAddr
	Up       bool
	Loopback bool
	Stats    Stats
}

// Stats are a link's totals since it was made (struct rtnl_link_stats64). Zero where the question was for one link.
type Stats struct {
	RxPackets, TxPackets, RxBytes, TxBytes, RxErrors, TxErrors, RxDropped, TxDropped uint64
}

// Veth is a pair of links: one at the host, a port of a bridge, and one in a pod.
type Veth struct {
	Host, Peer       string
	HostMAC, PeerMAC net.HardwareAddr
	// NetNS is where the peer is born.
	NetNS *linux.FD
	// Bridge is the index of the bridge.
	Bridge, MTU int
}

// CreateVeth makes both ends, the host's up, the peer in its namespace from birth: moving it later would cost a wait for every CPU. The
// peer cannot be born up (ENOTCONN: the kernel joins the ends last).
// One queue each: the default is one a CPU, and without XDP a veth uses the first only.
func CreateVeth(v Veth) *Request {
	r := newRequest("create link "+v.Host, syscall.RTM_NEWLINK, flagCreate|flagExcl)
	r.link(0, 0, syscall.IFF_UP, syscall.IFF_UP)
	end := func(name string, mac net.HardwareAddr) {
		r.text(syscall.IFLA_IFNAME, name)
		r.bytes(syscall.IFLA_ADDRESS, mac)
		r.number(syscall.IFLA_MTU, uint32(v.MTU))
		r.number(linkTxQueues, 1)
		r.number(linkRxQueues, 1)
	}
	end(v.Host, v.HostMAC)
	r.number(syscall.IFLA_MASTER, uint32(v.Bridge))
	return r.nest(syscall.IFLA_LINKINFO, func() {
		r.text(linkInfoKind, "veth")
		r.nest(linkInfoData, func() {
			r.nest(vethPeer, func() {
				r.link(0, 0, 0, 0)
				end(v.Peer, v.PeerMAC)
				r.number(linkNetNSFD, uint32(v.NetNS.Int()))
			})
		})
	})
}

// CreateBridge makes a bridge that forwards at once (no spanning tree) and floods multicast (neighbour discovery must not depend on a
// querier). A MAC that is given is kept; else it would change with the ports.
func CreateBridge(name string, mac net.HardwareAddr, mtu int) *Request {
	r := newRequest("create bridge "+name, syscall.RTM_NEWLINK, flagCreate|flagExcl)
	r.link(0, 0, 0, 0).text(syscall.IFLA_IFNAME, name).bytes(syscall.IFLA_ADDRESS, mac).number(syscall.IFLA_MTU, uint32(mtu))
	return r.nest(syscall.IFLA_LINKINFO, func() {
		r.text(linkInfoKind, "bridge")
		r.nest(linkInfoData, func() {
			r.number(bridgeForwardDelay, 0)
			r.byte(bridgeMcastSnooping, 0)
		})
	})
}

// SetMaster makes a link a port of a bridge, 0 of none.
func SetMaster(name string, bridge int) *Request {
	return newRequest(fmt.Sprintf("make %s a port of link %d", name, bridge), syscall.RTM_NEWLINK, 0).link(0, 0, 0, 0).
		text(syscall.IFLA_IFNAME, name).number(syscall.IFLA_MASTER, uint32(bridge))
}

// SetBridgePort brings up a link that is a port of a bridge and has it send back to where a frame came from (hairpin: with br_netfilter
// a pod that calls itself by a host port is bridged), and gives it an alias.
func SetBridgePort(name, alias string) *Request {
	r := newRequest("set up bridge port "+name, syscall.RTM_NEWLINK, 0)
	r.link(0, 0, syscall.IFF_UP, syscall.IFF_UP).text(syscall.IFLA_IFNAME, name).text(linkAlias, alias)
	return r.nest(syscall.IFLA_LINKINFO, func() {
		r.text(linkInfoSlaveKind, "bridge")
		r.nest(linkInfoSlaveData, func() { r.byte(bridgePortMode, 1) })
	})
}

// SetUp brings a link up.
func SetUp(name string, index int) *Request {
	return newRequest("bring up "+name, syscall.RTM_NEWLINK, 0).link(0, index, syscall.IFF_UP, syscall.IFF_UP)
}

// SetMTU changes a link's MTU, by name.
func SetMTU(name string, mtu int) *Request {
	return newRequest(fmt.Sprintf("set MTU %d of %s", mtu, name), syscall.RTM_NEWLINK, 0).link(0, 0, 0, 0).
		text(syscall.IFLA_IFNAME, name).number(syscall.IFLA_MTU, uint32(mtu))
}

// SetRouteLocalnet lets (or stops letting) 127.0.0.0/8 be routed over a link: net.ipv4.conf.<link>.route_localnet without a path.
func SetRouteLocalnet(name string, on bool) *Request {
	value := uint32(0)
	if on {
		value = 1
	}
	r := newRequest("set route_localnet of "+name, syscall.RTM_NEWLINK, 0).link(0, 0, 0, 0).text(syscall.IFLA_IFNAME, name)
	return r.nest(linkAFSpec, func() {
		r.nest(syscall.AF_INET, func() {
			r.nest(inetConf, func() { r.number(inetRouteLocalnet, value) })
		})
	})
}

// SetGroup puts a link into a group, for [DeleteGroup].
func SetGroup(name string, group uint32) *Request {
	return newRequest("set group of "+name, syscall.RTM_NEWLINK, 0).link(0, 0, 0, 0).text(syscall.IFLA_IFNAME, name).number(linkGroup, group)
}

// DeleteGroup removes every link of a group, at little more than the cost of one. ENODEV: there was none.
func DeleteGroup(group uint32) *Request {
	return newRequest(fmt.Sprintf("delete links of group %d", group), syscall.RTM_DELLINK, 0).link(0, 0, 0, 0).number(linkGroup, group)
}

// DeleteLink removes a link by name, a veth with its peer. ENODEV: there was none.
func DeleteLink(name string) *Request {
	return newRequest("delete link "+name, syscall.RTM_DELLINK, 0).link(0, 0, 0, 0).text(syscall.IFLA_IFNAME, name)
}

// Link finds a link by name; ENODEV if there is none. Its Stats are zero.
func (c *Conn) Link(name string) (*Link, error) {
	r := newRequest("find link "+name, syscall.RTM_GETLINK, 0).link(0, 0, 0, 0).
		text(syscall.IFLA_IFNAME, name).number(linkExtMask, extMaskSkipStats)
	var found *Link
	err := c.ask(r, syscall.RTM_NEWLINK, func(p []byte) { found = parseLink(p) })
	if err == nil && found == nil {
		err = fmt.Errorf("%s: %w", r.name, syscall.EBADMSG)
	}
	return found, err
}

// Links lists every link, with statistics.
func (c *Conn) Links() ([]*Link, error) {
	var all []*Link
	r := newRequest("list links", syscall.RTM_GETLINK, flagDump).link(0, 0, 0, 0)
	err := c.dump(r, syscall.RTM_NEWLINK, func(p []byte) {
		if l := parseLink(p); l != nil {
			all = append(all, l)
		}
	}, func() { all = nil })
	return all, err
}

// parseLink reads struct ifinfomsg and its attributes; nil if it is cut short.
func parseLink(p []byte) *Link {
	if len(p) < syscall.SizeofIfInfomsg {
		return nil
	}
	flags := binary.NativeEndian.Uint32(p[8:])
	l := &Link{
		Index: int(binary.NativeEndian.Uint32(p[4:])), Up: flags&syscall.IFF_UP != 0, Loopback: flags&syscall.IFF_LOOPBACK != 0,
	}
	attributes(p[syscall.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		switch kind {
		case syscall.IFLA_IFNAME:
			l.Name = text(value)
		case syscall.IFLA_ADDRESS:
			l.MAC = append(l.MAC, value...)
		case syscall.IFLA_MTU:
			l.MTU = int(number(value))
		case syscall.IFLA_MASTER:
			l.Master = int(number(value))
		case linkAlias:
			l.Alias = text(value)
		case linkStats64:
			l.Stats = parseStats(value)
		case syscall.IFLA_LINKINFO:
			attributes(value, func(kind uint16, value []byte) {
				if kind == linkInfoKind {
					l.Kind = text(value)
				}
			})
		}
	})
	return l
}

func number(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

func parseStats(value []byte) (s Stats) {
	for i, field := range []*uint64{
		&s.RxPackets, &s.TxPackets, &s.RxBytes, &s.TxBytes, &s.RxErrors, &s.TxErrors, &s.RxDropped, &s.TxDropped,
	} {
		if len(value) >= 8*i+8 {
			*field = binary.NativeEndian.Uint64(value[8*i:])
		}
	}
	return s
}
