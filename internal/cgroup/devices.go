package cgroup

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// access is what may be done with a device, with the bits of <linux/bpf.h> (BPF_DEVCG_ACC_*).
type access uint8

const (
	mknod access = 1 << iota
	read
	write
	everything = mknod | read | write
)

// String returns letters as cgroup v1 and OCI have them.
func (a access) String() string {
	var s string
	for _, l := range []struct {
		bit    access
		letter string
	}{{read, "r"}, {write, "w"}, {mknod, "m"}} {
		if a&l.bit != 0 {
			s += l.letter
		}
	}
	return s
}

// device names one device, or many.
type device struct {
	kind         byte  // 'b' or 'c'
	major, minor int64 // any if negative
}

const wildcard = -1

// String returns the device as cgroup v1 writes it.
func (d device) String() string {
	part := func(n int64) string {
		if n < 0 {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%c %s:%s", d.kind, part(d.major), part(d.minor))
}

// deviceRules is a device list in the one form that both versions can express: a default and exceptions from it.
type deviceRules struct {
	// allow says what holds for a device that no exception names.
	allow bool
	// but are the exceptions: what is allowed if the default is to deny, and the reverse.
	but map[device]access
}

// all reports whether nothing is denied.
func (r *deviceRules) all() bool { return r.allow && len(r.but) == 0 }

// sorted lists the exceptions in one order, so that what is written and compiled is always the same.
func (r *deviceRules) sorted() []device {
	list := make([]device, 0, len(r.but))
	for d := range r.but {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b device) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
	return list
}

// normalize folds a list of rules, in which later ones win, into a default and exceptions. An empty list is nil: nothing to change. The
// starting point is the kernel's: everything is allowed.
//
// What v1 would silently ignore is refused: a hole in an exception that was made with wildcards (deny c 1:3 after allow c 1:*), and "a" for some
// devices or some accesses only, which v1 takes for all.
func normalize(list []specs.LinuxDeviceCgroup) (*deviceRules, error) {
	if len(list) == 0 {
		return nil, nil
	}
	r := &deviceRules{allow: true, but: map[device]access{}}
	for _, rule := range list {
		d, a, err := parseRule(rule)
		if err != nil {
			return nil, err
		}
		switch {
		case d.kind == 'a':
			r = &deviceRules{allow: rule.Allow, but: map[device]access{}}
		case rule.Allow != r.allow:
			r.but[d] |= a
		default:
			if err := r.withdraw(d, a); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// withdraw takes an exception back.
func (r *deviceRules) withdraw(d device, a access) error {
	for other, has := range r.but {
		if other != d && has&a != 0 && covers(other, d) {
			return errs.New(errs.InvalidArgument, "device rule %v %v: is a hole in %v %v, which control groups cannot express", d, a, other, has)
		}
		if covers(d, other) { // other is d or within it
			if r.but[other] &^= a; r.but[other] == 0 {
				delete(r.but, other)
			}
		}
	}
	return nil
}

// covers reports whether every device of b is one of a's.
func covers(a, b device) bool {
	in := func(a, b int64) bool { return a < 0 || a == b }
	return a.kind == b.kind && in(a.major, b.major) && in(a.minor, b.minor)
}

func parseRule(rule specs.LinuxDeviceCgroup) (device, access, error) {
	fail := func(why string) (device, access, error) {
		return device{}, 0, errs.New(errs.InvalidArgument, "device rule %s: %s", describe(rule), why)
	}
	d := device{kind: 'a', major: wildcard, minor: wildcard}
	switch rule.Type {
	case "a", "":
	case "b", "c":
		d.kind = rule.Type[0]
	case "u": // unbuffered character device, mknod(1)
		d.kind = 'c'
	default:
		return fail("its type is none of a, b, c, u")
	}
	for _, n := range []struct {
		from *int64
		to   *int64
	}{{rule.Major, &d.major}, {rule.Minor, &d.minor}} {
		if n.from == nil {
			continue
		}
		if *n.from < wildcard || *n.from > math.MaxUint32 {
			return fail("device numbers go from 0 to 4294967295, -1 is any")
		}
		*n.to = *n.from
	}
	var a access
	for _, letter := range rule.Access {
		switch letter {
		case 'r':
			a |= read
		case 'w':
			a |= write
		case 'm':
			a |= mknod
		default:
			return fail("access is of the letters r, w, m")
		}
	}
	switch {
	case a == 0 && rule.Allow:
		return fail("allows no access")
	case a == 0:
		a = everything
	}
	if d.kind == 'a' && (d.major >= 0 || d.minor >= 0 || a != everything) {
		return fail("type a is for all devices and all access")
	}
	return d, a, nil
}

func describe(r specs.LinuxDeviceCgroup) string {
	verb, number := "deny", func(n *int64) string {
		if n == nil {
			return "*"
		}
		return strconv.FormatInt(*n, 10)
	}
	if r.Allow {
		verb = "allow"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %q %s:%s %s", verb, r.Type, number(r.Major), number(r.Minor), r.Access))
}

// applyDevices puts rules into force, by the v1 controller where there is one and by a program on the v2 hierarchy otherwise.
func (g *Group) applyDevices(r *deviceRules) error {
	if h := g.tree.with("devices"); h != nil {
		return h.listDevices(g.rel, r)
	}
	if g.tree.unified != nil {
		return g.tree.unified.guardDevices(g.rel, r)
	}
	if r.all() {
		return nil
	}
	return errs.New(errs.Unimplemented, "this machine has no devices controller")
}
