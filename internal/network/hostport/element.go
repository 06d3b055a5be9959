package hostport

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
)

// element is the entry as an element of the map that set returns.
func (e entry) element() nftables.SetElement {
	var key []byte
	if e.Host.IsValid() {
		key = e.Host.AsSlice()
	}
	key = append(key, e.Protocol, 0, 0, 0)
	key = binary.BigEndian.AppendUint16(key, e.HostPort)
	key = append(key, 0, 0)
	value := binary.BigEndian.AppendUint16(e.Pod.AsSlice(), e.PodPort)
	return nftables.SetElement{Key: key, Val: append(value, 0, 0), Comment: e.Owner}
}

// parse is the reverse of element; false for what no entry looks like.
func parse(v nftables.SetElement, v6 bool) (e entry, ok bool) {
	width := 4
	if v6 {
		width = 16
	}
	key := v.Key
	switch len(key) {
	case 8:
	case width + 8:
		e.Host, _ = netip.AddrFromSlice(key[:width])
		key = key[width:]
	default:
		return e, false
	}
	if len(v.Val) < width+2 {
		return e, false
	}
	e.Protocol, e.HostPort = key[0], binary.BigEndian.Uint16(key[4:])
	e.Pod, _ = netip.AddrFromSlice(v.Val[:width])
	e.PodPort = binary.BigEndian.Uint16(v.Val[width:])
	e.Owner = v.Comment
	return e, true
}

// set is the map that an entry belongs to.
func (r *rules) set(e entry) *nftables.Set {
	switch {
	case e.Pod.Is4() && e.Host.IsValid():
		return r.ports4
	case e.Pod.Is4():
		return r.anyports4
	case e.Host.IsValid():
		return r.ports6
	}
	return r.anyports6
}
