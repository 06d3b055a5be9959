package builtin

import (
	"net/netip"
	"testing"

	"fermata/internal/network/lease"
)

// FuzzParsePodCIDR reads what a kubelet might say: what is accepted must be of use.
func FuzzParsePodCIDR(f *testing.F) {
	for _, s := range []string{"10.0.0.0/24", "fd00::/64,10.0.0.0/24", " 10.0.0.0/24 , fd00::/64 ", "::ffff:10.0.0.0/120", "0.0.0.0/0", "fe80::1%eth0/64", ",", "224.0.0.0/4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, cidr string) {
		all, err := parsePodCIDR(cidr)
		if err != nil {
			return
		}
		if len(all) == 0 || len(all) > 2 || len(all) == 2 && all[0].Addr().Is4() == all[1].Addr().Is4() {
			t.Errorf("%q: %v", cidr, all)
		}
		for _, p := range all {
			if p != p.Masked() || !p.Contains(lease.Gateway(p)) || lease.Count(all) == 0 {
				t.Errorf("%q: %v", cidr, p)
			}
		}
	})
}

func TestChooseTakesWhatIsLeftAndSaysWhenNothingIs(t *testing.T) {
	all := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} // a default route is in nobody's way
	for n := range 256 {
		p, err := choose4("x", all)
		if err != nil || !p.Addr().IsPrivate() || p.Bits() != 16 || p.Addr().As4()[0] != 10 && n < 255 {
			t.Fatalf("choice %d: %v, %v", n, p, err)
		}
		all = append(all, p)
	}
	all = append(all, netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"))
	if p, err := choose4("x", all); err == nil {
		t.Errorf("chose %v of nothing", p)
	}
}
