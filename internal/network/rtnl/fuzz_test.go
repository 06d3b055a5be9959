package rtnl

import (
	"testing"
)

// FuzzParse reads whatever bytes as every kind of answer: nothing may panic, and what is accepted must be sound.
func FuzzParse(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Add([]byte{2, 24, 0, 0, 1, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 10, 0, 0, 1})
	f.Add(newRequest("", 0, 0).link(0, 1, 1, 1).text(3, "eth0").nest(18, func() {}).raw[16:])
	f.Fuzz(func(t *testing.T, p []byte) {
		parseLink(p)
		if a, ok := parseAddress(p); ok && !a.Prefix.IsValid() {
			t.Errorf("address %v", a)
		}
		if r, ok := parseRoute(p); ok && !r.To.IsValid() {
			t.Errorf("route %v", r)
		}
		for _, flags := range []uint16{0, ackTLVs} {
			_ = message{kind: messageError, flags: flags, payload: p}.failure()
		}
	})
}
