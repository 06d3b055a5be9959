package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
)

// family is AF_INET or AF_INET6.
func family(a netip.Addr) uint8 {
	if a.Is4() {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}

// AddAddress gives a link an address and the route to its network. IPv6 is usable at once: no duplicate address detection, as whoever
// hands out the addresses knows.
func AddAddress(link string, index int, p netip.Prefix) *Request {
	return address(newRequest(fmt.Sprintf("add address %s to %s", p, link), syscall.RTM_NEWADDR, flagCreate|flagExcl), index, p)
}

// DeleteAddress takes an address from a link. EADDRNOTAVAIL: it had not got it.
func DeleteAddress(link string, index int, p netip.Prefix) *Request {
	return address(newRequest(fmt.Sprintf("delete address %s of %s", p, link), syscall.RTM_DELADDR, 0), index, p)
}

func address(r *Request, index int, p netip.Prefix) *Request {
	r.raw = append(r.raw, family(p.Addr()), uint8(p.Bits()), 0, 0)
	r.raw = binary.NativeEndian.AppendUint32(r.raw, uint32(index))
	r.bytes(syscall.IFA_LOCAL, p.Addr().AsSlice())
	r.bytes(syscall.IFA_ADDRESS, p.Addr().AsSlice())
	if p.Addr().Is4() {
		return r
	}
	return r.number(addressFlags, addressNoDAD)
}

// AddDefaultRoute sends everything else to a gateway of the link's network.
func AddDefaultRoute(link string, index int, gateway netip.Addr) *Request {
	r := newRequest(fmt.Sprintf("add default route by %s on %s", gateway, link), syscall.RTM_NEWROUTE, flagCreate|flagReplace)
	r.raw = append(r.raw, family(gateway), 0, 0, 0, routeTableMain, routeProtocolBoot, routeScopeUniverse, routeTypeUnicast, 0, 0, 0, 0)
	return r.bytes(syscall.RTA_GATEWAY, gateway.AsSlice()).number(syscall.RTA_OIF, uint32(index))
}

// Address is an address of a link with its network.
type Address struct {
	Link   int
	Prefix netip.Prefix
}

// Addresses lists the addresses of every link, both families.
func (c *Conn) Addresses() ([]Address, error) {
	var all []Address
	r := newRequest("list addresses", syscall.RTM_GETADDR, flagDump)
	r.raw = append(r.raw, make([]byte, syscall.SizeofIfAddrmsg)...)
	err := c.dump(r, syscall.RTM_NEWADDR, func(p []byte) {
		if a, ok := parseAddress(p); ok {
			all = append(all, a)
		}
	}, func() { all = nil })
	return all, err
}

// parseAddress reads struct ifaddrmsg. IFA_LOCAL is the link's own address; IPv6 has IFA_ADDRESS only.
func parseAddress(p []byte) (a Address, ok bool) {
	if len(p) < syscall.SizeofIfAddrmsg {
		return a, false
	}
	bits := int(p[1])
	a.Link = int(binary.NativeEndian.Uint32(p[4:]))
	var local, other netip.Addr
	attributes(p[syscall.SizeofIfAddrmsg:], func(kind uint16, value []byte) {
		switch kind {
		case syscall.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case syscall.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(value)
		}
	})
	if !local.IsValid() {
		local = other
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, a.Prefix.IsValid()
}

// Route is where a range of addresses leads.
type Route struct {
	// Link is the index of the link, 0 for a route that has none (blackhole) or several.
	Link int
	// To is the range; a default route has no bits.
	To netip.Prefix
	// Learnt says that it came by a router advertisement.
	Learnt bool
}

// Routes lists the routes of every table, both families.
func (c *Conn) Routes() ([]Route, error) {
	var all []Route
	r := newRequest("list routes", syscall.RTM_GETROUTE, flagDump)
	r.raw = append(r.raw, make([]byte, syscall.SizeofRtMsg)...)
	err := c.dump(r, syscall.RTM_NEWROUTE, func(p []byte) {
		if route, ok := parseRoute(p); ok {
			all = append(all, route)
		}
	}, func() { all = nil })
	return all, err
}

// parseRoute reads struct rtmsg.
func parseRoute(p []byte) (r Route, ok bool) {
	if len(p) < syscall.SizeofRtMsg {
		return r, false
	}
	to := netip.IPv6Unspecified()
	switch p[0] {
	case syscall.AF_INET:
		to = netip.IPv4Unspecified()
	case syscall.AF_INET6:
	default:
		return r, false
	}
	r.Learnt = p[5] == learntByRA
	attributes(p[syscall.SizeofRtMsg:], func(kind uint16, value []byte) {
		switch kind {
		case syscall.RTA_DST:
			if a, is := netip.AddrFromSlice(value); is {
				to = a
			}
		case syscall.RTA_OIF:
			r.Link = int(number(value))
		}
	})
	r.To = netip.PrefixFrom(to, int(p[1]))
	return r, r.To.IsValid()
}
