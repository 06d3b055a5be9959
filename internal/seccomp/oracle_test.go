package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// event is struct seccomp_data, without the instruction pointer.
type event struct {
	nr, arch uint32
	args     [6]uint64
}

// check applies the kernel's rules for filters (bpf_check_classic, seccomp_check_filter): known instructions, jumps inside, a return at the end.
func check(code []byte) error {
	n := len(code) / 8
	if len(code)%8 != 0 || n == 0 || n > maxInstructions {
		return fmt.Errorf("%d bytes", len(code))
	}
	for pc := range n {
		i := decode(code, pc)
		switch i.op {
		case opLoad:
			if i.k >= 64 || i.k%4 != 0 {
				return fmt.Errorf("instruction %d loads at %d", pc, i.k)
			}
		case opAnd, opReturn:
		case opGoto:
			if uint64(i.k) >= uint64(n-pc-1) {
				return fmt.Errorf("instruction %d of %d jumps over %d", pc, n, i.k)
			}
		case opEqual, opAbove, opAtLeast:
			if pc+int(i.jt)+1 >= n || pc+int(i.jf)+1 >= n {
				return fmt.Errorf("instruction %d of %d jumps over %d or %d", pc, n, i.jt, i.jf)
			}
		default:
			return fmt.Errorf("instruction %d: opcode %#x", pc, i.op)
		}
	}
	if last := decode(code, n-1); last.op != opReturn {
		return fmt.Errorf("ends in opcode %#x", last.op)
	}
	return nil
}

func decode(code []byte, pc int) instruction {
	b := code[8*pc:]
	return instruction{op: binary.NativeEndian.Uint16(b), jt: b[2], jf: b[3], k: binary.NativeEndian.Uint32(b[4:])}
}

// run interprets a program as the kernel would.
func run(code []byte, e event) verdict {
	var data [64]byte
	binary.LittleEndian.PutUint32(data[0:], e.nr)
	binary.LittleEndian.PutUint32(data[4:], e.arch)
	for i, arg := range e.args {
		binary.LittleEndian.PutUint64(data[16+8*i:], arg)
	}
	var acc uint32
	jump := func(pc int, i instruction, yes bool) int {
		if yes {
			return pc + int(i.jt)
		}
		return pc + int(i.jf)
	}
	for pc := 0; ; pc++ {
		switch i := decode(code, pc); i.op {
		case opLoad:
			acc = binary.LittleEndian.Uint32(data[i.k:])
		case opAnd:
			acc &= i.k
		case opGoto:
			pc += int(i.k)
		case opEqual:
			pc = jump(pc, i, acc == i.k)
		case opAbove:
			pc = jump(pc, i, acc > i.k)
		case opAtLeast:
			pc = jump(pc, i, acc >= i.k)
		case opReturn:
			return verdict(i.k)
		}
	}
}

// oracle is the plain meaning of a profile: it knows nothing of programs, ranges, or this package's tables.
type oracle struct {
	profile *specs.LinuxSeccomp
	tables  map[uint32]map[string]int // by audit value
	newest  map[uint32]int
	// naming finds the rules that mean a call, and how, so that asking is quick: a plain index, made by looking at every name of every rule.
	naming map[uint32]map[uint32][]mention
}

// mention is one name of one rule that means a call.
type mention struct {
	rule *specs.LinuxSyscall
	// door is set where the call is socketcall or ipc, and the first argument must say this.
	door uint64
}

func newOracle(p *specs.LinuxSeccomp, machine architecture) *oracle {
	o := &oracle{profile: p, tables: map[uint32]map[string]int{}, newest: map[uint32]int{}, naming: map[uint32]map[uint32][]mention{}}
	if machine == x86_64 {
		o.tables[0xc000003e] = arch.X86_64.SyscallNames
		if slices.Contains(p.Architectures, specs.ArchX86) {
			o.tables[0x40000003] = arch.I386.SyscallNames
		}
	} else {
		o.tables[0xc00000b7] = arch.AARCH64.SyscallNames
		if slices.Contains(p.Architectures, specs.ArchARM) {
			o.tables[0x40000028] = arch.ARM.SyscallNames
		}
	}
	for a := range o.tables {
		o.newest[a] = -1
		for _, s := range p.Syscalls {
			for _, name := range s.Names {
				if nr, ok := o.number(a, name); ok && nr < 0xf0000 {
					o.newest[a] = max(o.newest[a], nr)
				}
			}
		}
	}
	for a := range o.tables {
		o.naming[a] = map[uint32][]mention{}
		for i := range p.Syscalls {
			s := &p.Syscalls[i]
			for _, name := range s.Names {
				if nr, ok := o.number(a, name); ok {
					o.naming[a][uint32(nr)] = append(o.naming[a][uint32(nr)], mention{rule: s})
				}
				for nr, names := range doors {
					if which := slices.Index(names, name); a == 0x40000003 && which > 0 {
						o.naming[a][nr] = append(o.naming[a][nr], mention{s, uint64(which)})
					}
				}
			}
		}
	}
	return o
}

// doors are socketcall (102) and ipc (117) of x86, with the calls behind them by number.
var doors = map[uint32][]string{
	102: {"", "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv", "sendto",
		"recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg"},
	117: {"", "semop", "semget", "semctl", "semtimedop", "", "", "", "", "", "", "msgsnd", "msgrcv", "msgget", "msgctl", "", "", "", "",
		"", "", "shmat", "shmdt", "shmget", "shmctl"},
}

// number is the tables' number, or a newer one's, which no table has.
func (o *oracle) number(a uint32, name string) (int, bool) {
	if nr, ok := o.tables[a][name]; ok {
		return nr, true
	}
	nr, ok := map[string]int{"file_getattr": 468, "file_setattr": 469, "listns": 470, "rseq_slice_yield": 471}[name]
	if name == "uprobe" && a == 0xc000003e {
		return 336, true
	}
	return nr, ok
}

func plainVerdict(action specs.LinuxSeccompAction, ret *uint) verdict {
	data := uint(1)
	if ret != nil {
		data = *ret
	}
	switch action {
	case specs.ActAllow:
		return 0x7fff0000
	case specs.ActErrno:
		return 0x50000 | verdict(data)
	case specs.ActTrace:
		return 0x7ff00000 | verdict(data)
	case specs.ActKillProcess:
		return 0x80000000
	case specs.ActTrap:
		return 0x30000
	case specs.ActLog:
		return 0x7ffc0000
	}
	return 0 // KILL, KILL_THREAD
}

func (o *oracle) verdict(e event) verdict {
	if o.tables[e.arch] == nil {
		return 0x80000000
	}
	if e.arch == 0xc000003e && e.nr >= 0x40000000 {
		return 0x50000 | verdict(syscall.ENOSYS)
	}
	otherwise := plainVerdict(o.profile.DefaultAction, o.profile.DefaultErrnoRet)
	conditional, named := (*verdict)(nil), false
	for _, m := range o.naming[e.arch][e.nr] {
		v := plainVerdict(m.rule.Action, m.rule.ErrnoRet)
		if v == otherwise {
			continue
		}
		named = true // only matters to arm's private calls, which are beyond the newest
		if m.door == 0 && len(m.rule.Args) == 0 {
			return v
		}
		if conditional == nil && m.holds(e) {
			conditional = &v
		}
	}
	switch {
	case conditional != nil:
		return *conditional
	case named, permissive(o.profile.DefaultAction), o.newest[e.arch] < 0, int64(e.nr) <= int64(o.newest[e.arch]):
		return otherwise
	}
	return 0x50000 | verdict(syscall.ENOSYS)
}

// holds says whether the rule applies to this very call. Behind a door, arguments are not seen.
func (m mention) holds(e event) bool {
	if m.door == 0 {
		return matches(m.rule.Args, e)
	}
	return e.args[0]&0xffff == m.door && (len(m.rule.Args) == 0 || !permissive(m.rule.Action))
}

func permissive(a specs.LinuxSeccompAction) bool {
	return a == specs.ActAllow || a == specs.ActLog || a == specs.ActTrace
}

func matches(args []specs.LinuxSeccompArg, e event) bool {
	var seen [6]bool
	several := false
	for _, a := range args {
		several = several || seen[a.Index]
		seen[a.Index] = true
	}
	all, any := true, false
	for _, a := range args {
		ok := compare(a, e.args[a.Index])
		all, any = all && ok, any || ok
	}
	if several {
		return any
	}
	return all
}

func compare(a specs.LinuxSeccompArg, v uint64) bool {
	switch a.Op {
	case specs.OpEqualTo:
		return v == a.Value
	case specs.OpNotEqual:
		return v != a.Value
	case specs.OpMaskedEqual:
		return v&a.Value == a.ValueTwo
	case specs.OpGreaterThan:
		return v > a.Value
	case specs.OpGreaterEqual:
		return v >= a.Value
	case specs.OpLessThan:
		return v < a.Value
	}
	return v <= a.Value
}
