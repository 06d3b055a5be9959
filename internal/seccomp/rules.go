package seccomp

import (
	"fmt"
	"slices"
	"syscall"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// verdict is what a filter returns: SECCOMP_RET_* of <linux/seccomp.h> with its data in the lower half.
type verdict uint32

const (
	killThread  verdict = 0x00000000
	trap        verdict = 0x00030000
	errno       verdict = 0x00050000
	trace       verdict = 0x7ff00000
	logged      verdict = 0x7ffc0000
	allow       verdict = 0x7fff0000
	killProcess verdict = 0x80000000

	enosys = errno | verdict(syscall.ENOSYS)
)

const maxErrno = 4095 // what the kernel caps SECCOMP_RET_ERRNO at, MAX_ERRNO

// permits reports whether calls with this verdict are carried out.
func (v verdict) permits() bool {
	action := v &^ 0xffff
	return action == allow || action == logged || action == trace
}

// rule is one rule for one call: the verdict holds if all conditions do.
type rule struct {
	verdict    verdict
	conditions []specs.LinuxSeccompArg
}

func (r rule) equal(o rule) bool {
	return r.verdict == o.verdict && slices.Equal(r.conditions, o.conditions)
}

// policy is a profile for one architecture.
type policy struct {
	otherwise verdict
	// rules by number, in the profile's order. The first that matches decides; one without conditions stands alone.
	rules map[uint32][]rule
	// newest is the highest number the profile names (arm's private ones aside): what lies above did not exist for its author. Only if horizon.
	newest  uint32
	horizon bool
	total   int // of rules
}

// maxRules bounds the work of a profile made to cause it: names times alternatives. Programs of the kernel's size need no more.
const maxRules = 1 << 15

// read checks a profile and resolves it for an architecture.
//
// Rules are read as runc and libseccomp do: a name that an architecture lacks is passed over; a rule whose verdict is the default's says
// nothing; a rule without conditions makes those with conditions on the same call irrelevant; several conditions on one argument are
// alternatives, each a rule of its own (the form of Docker before 2018), otherwise all must hold.
func read(p *specs.LinuxSeccomp, a architecture) (*policy, error) {
	otherwise, err := verdictOf(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	pol := &policy{otherwise: otherwise, rules: map[uint32][]rule{}}
	for i, s := range p.Syscalls {
		v, err := verdictOf(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("rule %d %v: %w", i, s.Names, err)
		}
		alternatives, err := alternatives(s.Args)
		if err != nil {
			return nil, fmt.Errorf("rule %d %v: %w", i, s.Names, err)
		}
		for _, name := range s.Names {
			if nr, ok := a.numberOf(name); ok {
				pol.name(nr)
				pol.add(nr, v, alternatives)
			}
			if m, ok := multiplexed[name]; ok && a == x86 {
				pol.addMultiplexed(m.through, m.which, v, alternatives)
			}
		}
		if pol.total > maxRules {
			return nil, errs.New(errs.InvalidArgument, "over %d rules with conditions", maxRules)
		}
	}
	return pol, nil
}

// name moves the horizon.
func (p *policy) name(nr uint32) {
	if nr < armPrivate && !p.otherwise.permits() {
		p.newest, p.horizon = max(p.newest, nr), true
	}
}

func (p *policy) add(nr uint32, v verdict, alternatives [][]specs.LinuxSeccompArg) {
	if v == p.otherwise {
		return
	}
	for _, conditions := range alternatives {
		have := p.rules[nr]
		switch {
		case p.total > maxRules:
			return
		case len(have) > 0 && len(have[0].conditions) == 0:
			return
		case len(conditions) == 0:
			p.rules[nr] = []rule{{verdict: v}}
		default:
			p.rules[nr] = append(have, rule{v, conditions})
			p.total++
		}
	}
}

// addMultiplexed adds a rule at socketcall's or ipc's door. What the call's own arguments are cannot be seen there (they are in memory):
// a rule with conditions that permits is left out, one that refuses refuses altogether.
func (p *policy) addMultiplexed(through string, which uint64, v verdict, alternatives [][]specs.LinuxSeccompArg) {
	if v.permits() && len(alternatives[0]) > 0 {
		return
	}
	nr, ok := x86.numberOf(through)
	if !ok {
		return
	}
	// The upper half of ipc's first argument is a version.
	p.add(nr, v, [][]specs.LinuxSeccompArg{{{Index: 0, Op: specs.OpMaskedEqual, Value: 0xffff, ValueTwo: which}}})
}

// alternatives returns the sets of conditions of which one must hold.
func alternatives(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	var count [6]int
	several := false
	for _, a := range args {
		if a.Index >= uint(len(count)) {
			return nil, errs.New(errs.InvalidArgument, "argument %d: a call has six, from 0", a.Index)
		}
		if !slices.Contains(operators, a.Op) {
			return nil, errs.New(errs.InvalidArgument, "operator %q: not one of %v", a.Op, operators)
		}
		count[a.Index]++
		several = several || count[a.Index] > 1
	}
	if !several {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var each [][]specs.LinuxSeccompArg
	for i := range args {
		each = append(each, args[i:i+1])
	}
	return each, nil
}

var operators = []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
	specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}

// verdictOf returns what an action means. Where none is given, the errno is EPERM, as everywhere.
func verdictOf(action specs.LinuxSeccompAction, ret *uint) (verdict, error) {
	data := uint(syscall.EPERM)
	if ret != nil {
		data = *ret
	}
	switch action {
	case specs.ActAllow:
		return allow, nil
	case specs.ActErrno:
		if data > maxErrno {
			return 0, errs.New(errs.InvalidArgument, "errno %d: over %d", data, maxErrno)
		}
		return errno | verdict(data), nil
	case specs.ActTrace:
		if data > 0xffff {
			return 0, errs.New(errs.InvalidArgument, "trace data %d: over 65535", data)
		}
		return trace | verdict(data), nil
	case specs.ActKill, specs.ActKillThread:
		return killThread, nil
	case specs.ActKillProcess:
		return killProcess, nil
	case specs.ActTrap:
		return trap, nil
	case specs.ActLog:
		return logged, nil
	case specs.ActNotify:
		return 0, errs.New(errs.Unimplemented, "action %s: fermata has no seccomp agent", action)
	}
	return 0, errs.New(errs.InvalidArgument, "action %q: unknown", action)
}
