package builtin

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"

	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/network/lease"
)

// None as a subnet turns its family off.
const None = "none"

// settings is what the network remembers besides leases: <dir>/network.json.
type settings struct {
	durable.Newer

	// Chosen are the networks that fermata chose, with none configured.
	Chosen4 netip.Prefix `json:"chosen4,omitzero"`
	Chosen6 netip.Prefix `json:"chosen6,omitzero"`
	// PodCIDR is what the kubelet said last.
	PodCIDR string `json:"pod_cidr,omitempty"`
	// Forwarding4 and Forwarding6 say that fermata turned forwarding on, Accepting which interfaces' router advertisements it kept alive
	// through that; Teardown turns it back.
	Forwarding4 bool     `json:"forwarding4,omitempty"`
	Forwarding6 bool     `json:"forwarding6,omitempty"`
	Accepting   []string `json:"accepting,omitempty"`
}

const settingsKind = "network"

func settingsPath(dir string) string { return filepath.Join(dir, "network.json") }

func loadSettings(dir string) (s settings, broken string, err error) {
	err = durable.Read(settingsPath(dir), settingsKind, &s)
	var b *durable.BrokenError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return settings{}, "", nil
	case errors.As(err, &b):
		return settings{}, err.Error(), nil
	}
	return s, "", err
}

func (s *settings) save(dir string) error {
	return durable.Write(settingsPath(dir), settingsKind, s, durable.Options{Sync: true})
}

// shortestPrefix is the biggest network for pods there can be: one that holds loopback, multicast or everybody is a slip.
const shortestPrefix = 8

// parseSubnet checks a network from the configuration or from the kubelet.
func parseSubnet(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil {
		return p, errs.New(errs.InvalidArgument, "subnet %q: %w", text, err)
	}
	a := p.Masked().Addr()
	if a.Is4In6() || a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() || p.Bits() < shortestPrefix {
		return p, errs.New(errs.InvalidArgument, "subnet %q: not a network for pods", text)
	}
	if lease.Count([]netip.Prefix{p}) == 0 {
		return p, errs.New(errs.InvalidArgument, "subnet %q: too small for a gateway and one pod", text)
	}
	return p.Masked(), nil
}

// parsePodCIDR splits the kubelet's one or two networks, which must be of two families.
func parsePodCIDR(cidr string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for part := range strings.SplitSeq(cidr, ",") {
		p, err := parseSubnet(part)
		if err != nil {
			return nil, err
		}
		for _, q := range all {
			if q.Addr().Is4() == p.Addr().Is4() {
				return nil, errs.New(errs.InvalidArgument, "pod CIDR %q: two networks of one family", cidr)
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// choose4 finds a /16 that overlaps nothing in use. Where it begins to look depends on the instance, so that two that start at the
// same time rarely take the same. Ranges that Kubernetes distributions give to services, which no route shows, come last.
func choose4(instance string, used []netip.Prefix) (netip.Prefix, error) {
	sum := sha256.Sum256([]byte(instance))
	const first, count = 200, 55 // 10.200 to 10.254
	for i := range count {
		if p := private10(first + (int(sum[0])+i)%count); free(p, used) {
			return p, nil
		}
	}
	for n := 199; n >= 0; n-- {
		if p := private10(n); free(p, used) {
			return p, nil
		}
	}
	for n := 31; n >= 16; n-- {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(n), 0, 0}), 16); free(p, used) {
			return p, nil
		}
	}
	return netip.Prefix{}, errs.New(errs.FailedPrecondition, "choose a subnet: every /16 of 10.0.0.0/8 and 172.16.0.0/12 overlaps a route; configure one")
}

func private10(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
}

// choose6 makes a unique local network, RFC 4193: forty random bits.
func choose6(used []netip.Prefix) netip.Prefix {
	for {
		a := [16]byte{0: 0xfd}
		rand.Read(a[1:6]) // cannot fail (crypto/rand)
		if p := netip.PrefixFrom(netip.AddrFrom16(a), 64); free(p, used) {
			return p
		}
	}
}

func free(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Bits() != 0 && p.Overlaps(u) {
			return false
		}
	}
	return true
}

// inUse lists networks that routes and addresses of other links than the bridge lead to.
func (b *Bridge) inUse() ([]netip.Prefix, error) {
	bridge := 0
	if l, err := b.host.Link(b.name); err == nil {
		bridge = l.Index
	}
	routes, err := b.host.Routes()
	if err != nil {
		return nil, err
	}
	addresses, err := b.host.Addresses()
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	for _, r := range routes {
		if r.Link != bridge || bridge == 0 {
			used = append(used, r.To)
		}
	}
	for _, a := range addresses {
		if a.Link != bridge || bridge == 0 {
			used = append(used, a.Prefix.Masked())
		}
	}
	return used, nil
}

// decideRanges decides which networks pods get, the primary one first: configured, else the kubelet's, else chosen (and then remembered); none
// while a cluster's node waits for the kubelet's.
func (b *Bridge) decideRanges() ([]netip.Prefix, error) {
	var four, six netip.Prefix
	var kubelet []netip.Prefix
	if b.options.Subnet == "" && b.settings.PodCIDR != "" {
		var err error
		if kubelet, err = parsePodCIDR(b.settings.PodCIDR); err != nil {
			return nil, err
		}
	}
	for _, p := range kubelet {
		if p.Addr().Is4() {
			four = p
		} else {
			six = p
		}
	}
	for _, configured := range []struct {
		text string
		to   *netip.Prefix
	}{{b.options.Subnet, &four}, {b.options.Subnet6, &six}} {
		if configured.text == "" || configured.text == None {
			continue
		}
		p, err := parseSubnet(configured.text)
		if err != nil {
			return nil, err
		}
		if p.Addr().Is4() != (configured.to == &four) {
			return nil, errs.New(errs.InvalidArgument, "subnet %s: of the wrong family", p)
		}
		*configured.to = p
	}
	switch {
	case len(kubelet) != 0: // and what it does not name, the cluster does not have
	case len(b.cluster) != 0 && b.options.Subnet == "":
		return nil, nil
	default:
		if err := b.choose(&four, &six); err != nil {
			return nil, err
		}
	}
	all := make([]netip.Prefix, 0, 2)
	for _, p := range []netip.Prefix{four, six} {
		if p.IsValid() && (p.Addr().Is4() || b.v6) {
			all = append(all, p)
		}
	}
	if len(all) == 2 && len(kubelet) > 0 && kubelet[0].Addr().Is6() {
		all[0], all[1] = all[1], all[0]
	}
	if len(all) == 0 {
		return nil, errs.New(errs.InvalidArgument, "subnets: both families are turned off")
	}
	return all, nil
}

// choose fills in what nobody said, and remembers it. What was remembered is chosen anew only if no pod has an address of it and
// it overlaps something that came meanwhile.
func (b *Bridge) choose(four, six *netip.Prefix) error {
	need4 := !four.IsValid() && b.options.Subnet != None
	need6 := !six.IsValid() && b.options.Subnet6 != None && b.v6
	if !need4 && !need6 {
		return nil
	}
	used, err := b.inUse()
	if err != nil {
		return err
	}
	before := [2]netip.Prefix{b.settings.Chosen4, b.settings.Chosen6}
	_, pods := b.leases.Size()
	stale := func(p netip.Prefix) bool { return !p.IsValid() || pods == 0 && !free(p, used) }
	if need4 {
		if stale(b.settings.Chosen4) {
			if b.settings.Chosen4, err = choose4(b.options.Instance, used); err != nil {
				return err
			}
		}
		*four = b.settings.Chosen4
	}
	if need6 {
		if stale(b.settings.Chosen6) {
			b.settings.Chosen6 = choose6(used)
		}
		*six = b.settings.Chosen6
	}
	if before == [2]netip.Prefix{b.settings.Chosen4, b.settings.Chosen6} {
		return nil
	}
	if err := b.settings.save(b.options.Dir); err != nil {
		return fmt.Errorf("remember chosen subnet: %w", err)
	}
	return nil
}
