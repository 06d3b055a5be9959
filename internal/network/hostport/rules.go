package hostport

import (
	"net"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// The table, as `nft list table inet fermata-<instance>` shows it (b is the bridge):
//
//	set pods4 { type ipv4_addr; flags interval }                      the pods' networks
//	set pods6 { type ipv6_addr; flags interval }
//	map ports4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }     host ports at one address
//	map ports6 { … }
//	map anyports4 { type inet_proto . inet_service : ipv4_addr . inet_service }              host ports at every address
//	map anyports6 { … }
//	chain guard { type filter hook prerouting priority raw
//		iifname b ip daddr 127.0.0.0/8 drop        route_localnet must not open the host's loopback to pods, CVE-2020-8558
//		iifname b ip saddr 127.0.0.0/8 drop }
//	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump ports }
//	chain output     { type nat hook output priority dstnat;     ip6 daddr ::1 return; fib daddr type local jump ports }
//	chain ports {
//		dnat ip  to ip  daddr . meta l4proto . th dport map @ports4
//		dnat ip  to             meta l4proto . th dport map @anyports4
//		dnat ip6 to … }
//	chain forward { type filter hook forward priority filter; iifname b accept; oifname b accept }
//	chain postrouting { type nat hook postrouting priority srcnat
//		oifname b ip  saddr 127.0.0.0/8 masquerade                 host → 127.0.0.1:port → pod
//		oifname b ct status dnat ip  saddr @pods4 masquerade        pod → host port → pod: the answer must come back through here
//		oifname b ct status dnat ip6 saddr @pods6 masquerade
//		oifname != b ip daddr 10.244.0.0/16 return                  pod → pod of another node of the cluster, a rule a network
//		oifname != b ip  saddr @pods4 masquerade random,fully       pod → world
//		oifname != b ip6 saddr @pods6 masquerade random,fully }
//
// [::1] is left alone: IPv6 has no route_localnet, the kernel has no route for an answer that comes from a link to ::1 (IP_INNOROUTES). Refused at once,
// whoever asks for "localhost" goes on to 127.0.0.1; redirected, it would wait for ever.
type rules struct {
	table                *nftables.Table
	pods4, pods6         *nftables.Set
	ports4, ports6       *nftables.Set
	anyports4, anyports6 *nftables.Set
	bridge               []byte
	peers                []netip.Prefix
}

// Registers of 4 bytes. A key or value that is longer takes those that follow.
const reg0, reg1, reg2, reg4, reg5 = 8, 9, 10, 12, 13

func newRules(table, bridge string, peers []netip.Prefix) *rules {
	t := &nftables.Table{Name: table, Family: nftables.TableFamilyINet}
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: key, Interval: true, KeyByteOrder: binaryutil.BigEndian}
	}
	mapping := func(name string, to nftables.SetDatatype, key ...nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{
			Table: t, Name: name, IsMap: true, KeyByteOrder: binaryutil.BigEndian,
			KeyType: nftables.MustConcatSetType(key...), DataType: nftables.MustConcatSetType(to, nftables.TypeInetService),
		}
	}
	r := &rules{
		table:     t,
		bridge:    ifname(bridge),
		peers:     peers,
		pods4:     set("pods4", nftables.TypeIPAddr),
		pods6:     set("pods6", nftables.TypeIP6Addr),
		ports4:    mapping("ports4", nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
		ports6:    mapping("ports6", nftables.TypeIP6Addr, nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService),
		anyports4: mapping("anyports4", nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
		anyports6: mapping("anyports6", nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService),
	}
	return r
}

func (r *rules) sets() []*nftables.Set {
	return []*nftables.Set{r.pods4, r.pods6, r.ports4, r.ports6, r.anyports4, r.anyports6}
}

// add queues the making of everything but the maps' elements.
func (r *rules) add(c *nftables.Conn, pods []netip.Prefix) error {
	c.AddTable(r.table)
	for _, s := range r.sets() {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, p := range pods {
		set := r.pods4
		if p.Addr().Is6() {
			set = r.pods6
		}
		if err := c.SetAddElements(set, interval(p)); err != nil {
			return err
		}
	}
	accept := nftables.ChainPolicyAccept
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: r.table, Name: name, Type: kind, Hooknum: hook, Priority: priority, Policy: &accept})
	}
	rule := func(on *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: r.table, Chain: on, Exprs: all})
	}
	in, out, loopback4 := r.meta(expr.MetaKeyIIFNAME, expr.CmpOpEq), r.meta(expr.MetaKeyOIFNAME, expr.CmpOpEq), netip.MustParsePrefix("127.0.0.0/8")

	guard := chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rule(guard, in, address(loopback4, false), verdict(expr.VerdictDrop, ""))
	rule(guard, in, address(loopback4, true), verdict(expr.VerdictDrop, ""))

	ports := c.AddChain(&nftables.Chain{Table: r.table, Name: "ports"})
	rule(ports, isFamily(syscall.AF_INET), lookup(r.ports4, 4), dnat(syscall.AF_INET))
	rule(ports, isFamily(syscall.AF_INET), lookup(r.anyports4, 0), dnat(syscall.AF_INET))
	rule(ports, isFamily(syscall.AF_INET6), lookup(r.ports6, 16), dnat(syscall.AF_INET6))
	rule(ports, isFamily(syscall.AF_INET6), lookup(r.anyports6, 0), dnat(syscall.AF_INET6))
	for _, at := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		nat := chain(at.name, nftables.ChainTypeNAT, at.hook, nftables.ChainPriorityNATDest)
		if at.hook == nftables.ChainHookOutput {
			rule(nat, address(netip.MustParsePrefix("::1/128"), false), verdict(expr.VerdictReturn, ""))
		}
		rule(nat, toLocal(), verdict(expr.VerdictJump, "ports"))
	}

	forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	rule(forward, in, verdict(expr.VerdictAccept, ""))
	rule(forward, out, verdict(expr.VerdictAccept, ""))

	post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	hide, away := []expr.Any{&expr.Masq{}}, r.meta(expr.MetaKeyOIFNAME, expr.CmpOpNeq)
	rule(post, out, address(loopback4, true), hide)
	rule(post, out, redirected(), member(r.pods4), hide)
	rule(post, out, redirected(), member(r.pods6), hide)
	for _, p := range r.peers {
		rule(post, away, address(p, false), verdict(expr.VerdictReturn, ""))
	}
	random := []expr.Any{&expr.Masq{FullyRandom: true}} // two pods of one name server must not race for one port
	rule(post, away, member(r.pods4), random)
	rule(post, away, member(r.pods6), random)
	return nil
}

// ifname is a name as the kernel compares it: 16 bytes.
func ifname(name string) []byte {
	b := make([]byte, syscall.IFNAMSIZ)
	copy(b, name)
	return b
}

func (r *rules) meta(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: r.bridge}}
}

func isFamily(family byte) []expr.Any {
	nfproto := byte(2) // NFPROTO_IPV4, NFPROTO_IPV6 are not AF_INET, AF_INET6 by accident only
	if family == syscall.AF_INET6 {
		nfproto = 10
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{nfproto}}}
}

// header loads the source or destination address.
func header(v6, source bool, register uint32) expr.Any {
	p := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	if v6 {
		p.Offset, p.Len = 24, 16
	}
	if source {
		p.Offset -= p.Len
	}
	return p
}

// address matches packets from (or to) a network.
func address(p netip.Prefix, source bool) []expr.Any {
	v6, family := p.Addr().Is6(), byte(syscall.AF_INET)
	if v6 {
		family = syscall.AF_INET6
	}
	all := append(isFamily(family), header(v6, source, 1))
	if n := uint32(p.Addr().BitLen() / 8); p.Bits() != p.Addr().BitLen() {
		all = append(all, &expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: n, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, n),
		})
	}
	return append(all, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

// member matches packets from an address of a set.
func member(s *nftables.Set) []expr.Any {
	v6, family := s.KeyType.Bytes == 16, byte(syscall.AF_INET)
	if v6 {
		family = syscall.AF_INET6
	}
	return append(isFamily(family), header(v6, true, 1), &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID})
}

// lookup loads the key of a map (an address of that many bytes, protocol, port) and puts the value into register 1.
func lookup(s *nftables.Set, addressBytes int) []expr.Any {
	protocol, port := uint32(reg0), uint32(reg1)
	var all []expr.Any
	switch addressBytes {
	case 4:
		all = append(all, header(false, false, reg0))
		protocol, port = reg1, reg2
	case 16:
		all = append(all, header(true, false, reg0))
		protocol, port = reg4, reg5
	}
	return append(all,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID})
}

func dnat(family uint32) []expr.Any {
	port := uint32(reg1)
	if family == syscall.AF_INET6 {
		port = reg4
	}
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: reg0, RegProtoMin: port, Specified: true}}
}

// toLocal matches packets to an address of the host.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(syscall.RTN_LOCAL)},
	}
}

// redirected matches packets of connections that were sent elsewhere than they were addressed.
func redirected() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// interval is a network as a set with intervals wants it: its first address and the first after it.
func interval(p netip.Prefix) []nftables.SetElement {
	p = p.Masked()
	end := p.Addr().AsSlice()
	for i, bit := p.Bits()-1, true; i >= 0 && bit; i-- { // add one at the last bit of the prefix
		end[i/8] ^= 0x80 >> (i % 8)
		bit = end[i/8]&(0x80>>(i%8)) == 0
	}
	return []nftables.SetElement{{Key: p.Addr().AsSlice()}, {Key: end, IntervalEnd: true}}
}
