package seccomp

import (
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"fermata/internal/errs"
	"fermata/internal/linux"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Filter is a compiled profile. It is immutable and may be shared.
type Filter struct {
	code  []byte
	flags uint
}

// Bytes returns the program: an array of struct sock_filter in the machine's byte order. It is not to be changed.
func (f *Filter) Bytes() []byte { return f.code }

// Len returns the number of instructions.
func (f *Filter) Len() int { return len(f.code) / 8 }

// Flags returns the SECCOMP_FILTER_FLAG_* to load it with, 0 for none.
func (f *Filter) Flags() uint { return f.flags }

// maxInstructions is BPF_MAXINSNS.
const maxInstructions = 4096

// cache keeps filters by everything in their profile that matters: a node has a handful, made again for every container.
var cache struct {
	sync.Mutex
	filters map[string]*Filter
}

// maxCached bounds the cache, which is emptied when full: profiles by the dozen are a test or an attack.
const maxCached = 32

// Compile makes the program of a profile for this machine. A profile that makes no sense, or whose program would exceed the kernel's 4096
// instructions, is InvalidArgument; one that needs a seccomp agent (SCMP_ACT_NOTIFY) is Unimplemented.
//
// The program gives a process that calls by a convention the profile does not list (x86 on x86_64, unless listed) to the kernel to kill,
// and answers ENOSYS to every x32 call and, unless the default permits, to calls newer than the newest the profile names.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	key := identity(p)
	cache.Lock()
	f := cache.filters[string(key)]
	cache.Unlock()
	if f != nil {
		return f, nil
	}
	machine, ok := native()
	if !ok {
		return nil, errs.New(errs.Unimplemented, "compile seccomp profile: no system call table for %s", runtime.GOARCH)
	}
	f, err := compile(p, machine)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	cache.Lock()
	defer cache.Unlock()
	if cache.filters == nil || len(cache.filters) >= maxCached {
		cache.filters = map[string]*Filter{}
	}
	cache.filters[string(key)] = f
	return f, nil
}

// identity spells out everything in a profile that Compile looks at. Every text is preceded by its length and every list by its count, so that
// no two profiles are spelled alike.
func identity(p *specs.LinuxSeccomp) []byte {
	w := make(speller, 0, 16<<10)
	w.text(string(p.DefaultAction))
	w.optional(p.DefaultErrnoRet)
	w.text(p.ListenerPath)
	w.number(uint64(len(p.Architectures)))
	for _, a := range p.Architectures {
		w.text(string(a))
	}
	w.number(uint64(len(p.Flags)))
	if p.Flags == nil {
		w.number(1)
	}
	for _, f := range p.Flags {
		w.text(string(f))
	}
	for _, s := range p.Syscalls {
		w.text(string(s.Action))
		w.optional(s.ErrnoRet)
		w.number(uint64(len(s.Names)))
		for _, n := range s.Names {
			w.text(n)
		}
		w.number(uint64(len(s.Args)))
		for _, a := range s.Args {
			w.number(uint64(a.Index))
			w.number(a.Value)
			w.number(a.ValueTwo)
			w.text(string(a.Op))
		}
	}
	return w
}

type speller []byte

func (w *speller) number(n uint64) { *w = binary.AppendUvarint(*w, n) }

func (w *speller) text(s string) {
	w.number(uint64(len(s)))
	*w = append(*w, s...)
}

func (w *speller) optional(n *uint) {
	if n == nil {
		w.number(0)
		return
	}
	w.number(1)
	w.number(uint64(*n))
}

// compile makes the program for a machine.
//
//	load arch; is it the machine's? → its calls; is it the one beside? → its calls; kill
//	calls: load number; x32? → ENOSYS; binary search over the ranges of numbers that fare alike → leaf
//	leaf:  test conditions, rule after rule; return
func compile(p *specs.LinuxSeccomp, machine architecture) (*Filter, error) {
	flags, err := flagsOf(p)
	if err != nil {
		return nil, err
	}
	a := &assembler{returns: map[verdict]label{}}
	list := listed(machine, p.Architectures)
	entries := make([]label, len(list))
	for i, arch := range slices.Backward(list) {
		policy, err := read(p, arch)
		if err != nil {
			return nil, err
		}
		if entries[i], err = a.calls(arch, policy); err != nil {
			return nil, err
		}
	}
	next := a.verdict(killProcess)
	for i, arch := range slices.Backward(list) {
		next = a.branch(opEqual, audit[arch], entries[i], next)
	}
	a.goTo(next)
	a.load(atArch)
	if n := len(a.reversed); n > maxInstructions {
		return nil, tooLong(n)
	}
	return &Filter{code: a.program(), flags: flags}, nil
}

func tooLong(n int) error {
	return errs.New(errs.InvalidArgument, "its rules need %d instructions or more, the kernel takes %d", n, maxInstructions)
}

func flagsOf(p *specs.LinuxSeccomp) (uint, error) {
	if p.ListenerPath != "" {
		return 0, errs.New(errs.Unimplemented, "listenerPath %q: fermata has no seccomp agent", p.ListenerPath)
	}
	if p.Flags == nil {
		return linux.SeccompFlagSpecAllow, nil // runc's default: mitigations are not the filter's business
	}
	var flags uint
	for _, f := range p.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= linux.SeccompFlagLog
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= linux.SeccompFlagSpecAllow
		case specs.LinuxSeccompFlagWaitKillableRecv: // EINVAL without a listener
			return 0, errs.New(errs.Unimplemented, "flag %s: fermata has no seccomp agent", f)
		case "SECCOMP_FILTER_FLAG_TSYNC": // the process has one thread when it is loaded
		default:
			return 0, errs.New(errs.InvalidArgument, "flag %q: unknown", f)
		}
	}
	return flags, nil
}

// span is a range of numbers that fare alike: from its first to the next span's.
type span struct {
	from  uint32
	rules []rule // of which the first that matches decides
	// otherwise decides if none does.
	otherwise verdict
}

// spans divides all numbers into ranges.
func (p *policy) spans() []span {
	var list []span
	add := func(s span) {
		if n := len(list); n > 0 && list[n-1].otherwise == s.otherwise && slices.EqualFunc(list[n-1].rules, s.rules, rule.equal) {
			return
		}
		list = append(list, s)
	}
	// gap adds what lies between named numbers: the default, and beyond the horizon ENOSYS.
	gap := func(from uint32) {
		if p.horizon && from > p.newest {
			add(span{from: from, otherwise: enosys})
		} else {
			add(span{from: from, otherwise: p.otherwise})
		}
	}
	next := uint32(0)
	for _, nr := range slices.Sorted(maps.Keys(p.rules)) {
		if next < nr {
			gap(next)
			if p.horizon && next <= p.newest && p.newest+1 < nr {
				gap(p.newest + 1)
			}
		}
		s := span{from: nr, rules: p.rules[nr], otherwise: p.otherwise}
		if r := s.rules[0]; len(r.conditions) == 0 {
			s = span{from: nr, otherwise: r.verdict}
		}
		add(s)
		next = nr + 1
	}
	gap(next)
	if p.horizon && next <= p.newest {
		gap(p.newest + 1)
	}
	return list
}

// calls emits the decision by number and returns its beginning.
func (a *assembler) calls(arch architecture, p *policy) (label, error) {
	spans := p.spans()
	var leaves []leaf
	var search func(spans []span) label
	search = func(spans []span) label {
		if len(a.reversed) > maxInstructions {
			return a.here() // enough: it is refused
		}
		if len(spans) == 1 {
			return a.leaf(spans[0], &leaves)
		}
		mid := len(spans) / 2
		above := search(spans[mid:])
		below := search(spans[:mid])
		return a.branch(opAtLeast, spans[mid].from, above, below)
	}
	root := search(spans)
	if n := len(a.reversed); n > maxInstructions {
		return 0, tooLong(n)
	}
	if arch == x86_64 {
		root = a.branch(opAtLeast, x32Bit, a.verdict(enosys), root)
	}
	a.goTo(root)
	return a.load(atNumber), nil
}

// leaf is where what decides on the calls of a span begins. Calls that are named together share it.
type leaf struct {
	span  span
	place label
}

func (a *assembler) leaf(s span, leaves *[]leaf) label {
	no := a.verdict(s.otherwise)
	if len(s.rules) == 0 {
		return no
	}
	for _, l := range *leaves {
		if l.span.otherwise == s.otherwise && slices.EqualFunc(l.span.rules, s.rules, rule.equal) {
			return l.place
		}
	}
	for _, r := range slices.Backward(s.rules) {
		yes := a.verdict(r.verdict)
		for _, c := range slices.Backward(r.conditions) {
			yes = a.condition(c, yes, no)
		}
		no = yes
	}
	*leaves = append(*leaves, leaf{s, no})
	return no
}
