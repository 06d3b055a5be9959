package seccomp

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fermata/internal/errs"

	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// machines are compiled for, wherever the test runs.
var machines = map[string]architecture{"x86_64": x86_64, "aarch64": aarch64}

var capabilitySets = map[string][]string{
	"of an ordinary container": {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"},
	"none": {},
	"all":  {"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_TIME", "CAP_SYSLOG", "CAP_SYS_RAWIO"},
}

// agree compares a program with the oracle over every number, the edges, and for each call with conditions every value at which an answer may
// change, on every argument.
func agree(t *testing.T, p *specs.LinuxSeccomp, machine architecture) {
	t.Helper()
	f, err := compile(p, machine)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(f.Bytes()); err != nil {
		t.Fatal(err)
	}
	o := newOracle(p, machine)
	values := interesting(p)
	r := rand.New(rand.NewPCG(1, 2))
	bad := 0
	compare := func(e event) {
		if got, want := run(f.Bytes(), e), o.verdict(e); got != want && bad < 10 {
			bad++
			t.Errorf("arch %#x call %d %x: %#x, want %#x", e.arch, e.nr, e.args, uint32(got), uint32(want))
		}
	}
	for _, a := range append(slices.Clone(audit[:]), 0xc00000f3 /* riscv64 */, 0x80000015 /* ppc64 */) {
		conditional := map[uint32]bool{}
		if a == audit[x86] {
			conditional[102], conditional[117] = true, true
		}
		for _, s := range p.Syscalls {
			for _, name := range s.Names {
				if nr, ok := o.number(a, name); ok && len(s.Args) > 0 {
					conditional[uint32(nr)] = true
				}
			}
		}
		for nr := range uint32(520) {
			compare(event{nr: nr, arch: a})
		}
		for nr := range uint32(16) {
			compare(event{nr: armPrivate - 4 + nr, arch: a})
		}
		for _, nr := range []uint32{0x3fffffff, 0x40000000, 0x40000001, 0x40000000 + 39, 0x40000000 + 520, 0x7fffffff, 0x80000000, 0xffffffff} {
			compare(event{nr: nr, arch: a})
		}
		for nr := range conditional {
			for index := range 6 {
				for _, v := range values[index] {
					e := event{nr: nr, arch: a}
					e.args[index] = v
					compare(e)
				}
			}
			for range 100 {
				e := event{nr: nr, arch: a}
				for i, v := range values {
					e.args[i] = v[r.IntN(len(v))]
				}
				compare(e)
			}
		}
	}
}

// interesting are, by argument, values at which the outcome of a profile's conditions may change, with their neighbours in each half.
func interesting(p *specs.LinuxSeccomp) (values [6][]uint64) {
	for i := range values {
		values[i] = []uint64{0, 1, 2, 1 << 31, 1 << 32, 1 << 63, 1<<32 - 1, 1<<64 - 1}
	}
	for which := range uint64(25) {
		values[0] = append(values[0], which, 1<<16|which) // what socketcall and ipc are asked for
	}
	for _, s := range p.Syscalls {
		for _, a := range s.Args {
			to := &values[a.Index]
			for _, v := range []uint64{a.Value, a.ValueTwo, a.Value | a.ValueTwo, ^a.Value, ^a.Value | a.ValueTwo} {
				*to = append(*to, v, v-1, v+1, v^1<<32, v+1<<32, v-1<<32, v&0xffffffff, v<<32, v>>32)
			}
		}
	}
	for i := range values {
		slices.Sort(values[i])
		values[i] = slices.Compact(values[i])
	}
	return values
}

func TestTheDefaultProfileMeansWhatItSays(t *testing.T) {
	for set, caps := range capabilitySets {
		for name, machine := range machines {
			t.Run("capabilities "+set+" on "+name, func(t *testing.T) {
				p, err := Default(caps)
				if err != nil {
					t.Fatal(err)
				}
				// The profile is made for the machine the test runs on; its rules are tried on both.
				p.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM}
				agree(t, p, machine)
				f, err := compile(p, machine)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%d instructions", f.Len())
				if f.Len() > 400 {
					t.Errorf("%d instructions: grown beyond 400", f.Len())
				}
			})
		}
	}
}

func u(n uint) *uint { return &n }

func TestEveryOperatorComparesAllBits(t *testing.T) {
	for _, op := range operators {
		for _, v := range []uint64{0, 1, 40, 0xffffffff, 1 << 32, 1<<32 | 5, 1 << 63, 1<<64 - 1} {
			for _, second := range []uint64{0, 5, 1 << 40} {
				p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchARM}, Syscalls: []specs.LinuxSyscall{
					{Names: []string{"socket", "read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 3, Value: v, ValueTwo: second, Op: op}}},
				}}
				for _, machine := range machines {
					agree(t, p, machine)
				}
			}
		}
	}
}

func TestWhatAProfileSays(t *testing.T) {
	const amd64, i386 = 0xc000003e, 0x40000003
	deny := func(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: u(13), Architectures: []specs.Arch{specs.ArchX86}, Syscalls: rules}
	}
	permit := func(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86}, Syscalls: rules}
	}
	arg := func(index uint, op specs.LinuxSeccompOperator, v uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: v}
	}
	for _, c := range []struct {
		name    string
		profile *specs.LinuxSeccomp
		event   event
		want    verdict
	}{
		{"a call the profile does not name gets the default's errno", deny(specs.LinuxSyscall{Names: []string{"read", "mseal"}, Action: specs.ActAllow}),
			event{nr: 1, arch: amd64}, errno | 13},
		{"a call newer than any named answers ENOSYS", deny(specs.LinuxSyscall{Names: []string{"read", "mseal"}, Action: specs.ActAllow}),
			event{nr: 463, arch: amd64}, enosys},
		{"a call named with the default's verdict is known all the same", deny(specs.LinuxSyscall{Names: []string{"listns"}, Action: specs.ActErrno, ErrnoRet: u(13)}),
			event{nr: 470, arch: amd64}, errno | 13},
		{"with a default that permits, newer calls are permitted", permit(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno}),
			event{nr: 470, arch: amd64}, allow},
		{"an x32 call does not exist", permit(), event{nr: x32Bit + 39, arch: amd64}, enosys},
		{"a 32-bit call kills when the profile does not list x86", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow},
			event{nr: 20, arch: i386}, killProcess},
		{"conditions on several arguments must all hold",
			deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1), arg(1, specs.OpEqualTo, 2)}}),
			event{arch: amd64, args: [6]uint64{1, 3}}, errno | 13},
		{"several conditions on one argument are alternatives",
			deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1), arg(0, specs.OpEqualTo, 2)}}),
			event{arch: amd64, args: [6]uint64{2}}, allow},
		{"a rule without conditions wins over those with",
			deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1)}},
				specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow}),
			event{arch: amd64, args: [6]uint64{1}}, allow},
		{"the first of the rules that match decides",
			deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpGreaterThan, 1)}},
				specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpGreaterThan, 0)}}),
			event{arch: amd64, args: [6]uint64{2}}, trap},
		{"a denied socket is denied at socketcall's door too", permit(specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActErrno}),
			event{nr: 102, arch: i386, args: [6]uint64{1}}, errno | 1},
		{"a permitted shmget may come through ipc, of any version", deny(specs.LinuxSyscall{Names: []string{"shmget"}, Action: specs.ActAllow}),
			event{nr: 117, arch: i386, args: [6]uint64{1<<16 | 23}}, allow},
		{"a socket permitted by its arguments is not permitted where they are not seen",
			deny(specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1)}}),
			event{nr: 102, arch: i386, args: [6]uint64{1}}, errno | 13},
		{"KILL ends the thread", deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActKill}), event{arch: amd64}, killThread},
		{"KILL_PROCESS ends the process", deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActKillProcess}), event{arch: amd64}, killProcess},
		{"LOG logs", deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActLog}), event{arch: amd64}, logged},
		{"TRACE hands its data on", deny(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrace, ErrnoRet: u(77)}), event{arch: amd64}, trace | 77},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := compile(c.profile, x86_64)
			if err != nil {
				t.Fatal(err)
			}
			if got := run(f.Bytes(), c.event); got != c.want {
				t.Errorf("%#x, want %#x", uint32(got), uint32(c.want))
			}
			agree(t, c.profile, x86_64)
		})
	}
}

func TestProfilesThatAreRefused(t *testing.T) {
	one := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{s}}
	}
	var many []specs.LinuxSyscall
	for i := range uint64(2000) {
		many = append(many, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: 2 * i, Op: specs.OpEqualTo}}})
	}
	var flood []specs.LinuxSeccompArg
	for i := range uint64(1000) {
		flood = append(flood, specs.LinuxSeccompArg{Value: i, Op: specs.OpEqualTo})
	}
	for _, c := range []struct {
		name    string
		profile *specs.LinuxSeccomp
		want    errs.Kind
	}{
		{"no default action", &specs.LinuxSeccomp{}, errs.InvalidArgument},
		{"an unknown action", one(specs.LinuxSyscall{Names: []string{"read"}, Action: "SCMP_ACT_SHOUT"}), errs.InvalidArgument},
		{"an unknown operator", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_ABOUT"}}}), errs.InvalidArgument},
		{"a seventh argument", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}), errs.InvalidArgument},
		{"an errno the kernel cannot return", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: u(4096)}), errs.InvalidArgument},
		{"trace data over 16 bits", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrace, ErrnoRet: u(65536)}), errs.InvalidArgument},
		{"a notifying rule", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), errs.Unimplemented},
		{"a listener", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}, errs.Unimplemented},
		{"a flag for listeners", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}}, errs.Unimplemented},
		{"an unknown flag", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_WAVE"}}, errs.InvalidArgument},
		{"more rules than the kernel takes instructions", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: many}, errs.InvalidArgument},
		{"names times alternatives without end", one(specs.LinuxSyscall{Names: slices.Repeat([]string{"read"}, 10000), Action: specs.ActAllow, Args: flood}), errs.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Compile(c.profile)
			if !errs.Is(err, c.want) {
				t.Errorf("%v, %v, want %v", f, err, c.want)
			}
		})
	}
}

// randomProfile makes rules of all shapes over a few calls, so that they meet.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActTrap, specs.ActLog, specs.ActTrace}
	names := []string{"read", "write", "socket", "shmget", "socketcall", "clone", "cacheflush", "personality", "listns", "nonesuch", "mseal", "semop"}
	pick := func() specs.LinuxSeccompAction { return actions[r.IntN(len(actions))] }
	value := func() uint64 {
		return []uint64{0, 1, 7, 0xffff, 1 << 32, r.Uint64(), uint64(r.Uint32()), 1<<64 - 1}[r.IntN(8)]
	}
	p := &specs.LinuxSeccomp{DefaultAction: pick()}
	if r.IntN(2) == 0 {
		p.DefaultErrnoRet = u(uint(r.IntN(200)))
	}
	if r.IntN(3) > 0 {
		p.Architectures = []specs.Arch{specs.ArchX86, specs.ArchARM, specs.ArchX32}
	}
	for range r.IntN(25) {
		s := specs.LinuxSyscall{Action: pick()}
		if r.IntN(2) == 0 {
			s.ErrnoRet = u(uint(r.IntN(200)))
		}
		for range 1 + r.IntN(4) {
			s.Names = append(s.Names, names[r.IntN(len(names))])
		}
		for range r.IntN(5) {
			s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(r.IntN(6)), Op: operators[r.IntN(len(operators))], Value: value(), ValueTwo: value()})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

func TestRandomProfilesMeanWhatTheySay(t *testing.T) {
	for seed := range uint64(150) {
		p := randomProfile(rand.New(rand.NewPCG(seed, 0)))
		for _, machine := range machines {
			agree(t, p, machine)
		}
		if t.Failed() {
			t.Fatalf("seed %d: %+v", seed, p)
		}
	}
}

// Long distances need jumps of their own: rules for many calls with conditions that differ.
func TestAProgramLongerThanAJumpReaches(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86, specs.ArchARM}}
	for i, c := range table {
		if i%4 == 0 {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{c.name}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: uint(i % 6), Value: uint64(i), Op: specs.OpGreaterEqual}}})
		}
	}
	for name, machine := range machines {
		t.Run(name, func(t *testing.T) {
			agree(t, p, machine)
			f, err := compile(p, machine)
			if err != nil {
				t.Fatal(err)
			}
			if f.Len() < 4*maxSkip {
				t.Errorf("only %d instructions: this tests nothing", f.Len())
			}
		})
	}
}

func TestTheTableIsTheKernels(t *testing.T) {
	for a, theirs := range map[architecture]*arch.Info{x86_64: arch.X86_64, x86: arch.I386, aarch64: arch.AARCH64, arm: arch.ARM} {
		if uint32(theirs.ID) != audit[a] {
			t.Errorf("architecture %d: audit %#x, want %#x", a, audit[a], uint32(theirs.ID))
		}
		for name, nr := range theirs.SyscallNames {
			if got, ok := a.numberOf(name); !ok || got != uint32(nr) {
				t.Errorf("%s on %s: %d %v, want %d", name, theirs.Name, got, ok, nr)
			}
		}
		if nr, ok := a.numberOf("file_getattr"); !ok || nr != 468 {
			t.Errorf("file_getattr on %s: %d %v", theirs.Name, nr, ok)
		}
		if nr, ok := a.numberOf("nonesuch"); ok {
			t.Errorf("nonesuch on %s: %d", theirs.Name, nr)
		}
	}
	if !slices.IsSortedFunc(table, func(a, b call) int { return strings.Compare(a.name, b.name) }) {
		t.Error("not sorted")
	}
	// A name of the default profile that no table has would silently not be allowed.
	p, err := Default(nil)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := []string{"riscv_flush_icache", "riscv_hwprobe", "sync_file_range2", "swapcontext"}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			known := slices.ContainsFunc(table, func(c call) bool { return c.name == name }) || strings.HasPrefix(name, "s390_") || slices.Contains(elsewhere, name)
			if !known {
				t.Errorf("%s is in no table", name)
			}
		}
	}
}

func TestTheSameProfileIsCompiledOnce(t *testing.T) {
	make := func(change func(*specs.LinuxSeccomp)) *Filter {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 2, ValueTwo: 3, Op: specs.OpMaskedEqual}}}}}
		change(p)
		f, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	same := func(*specs.LinuxSeccomp) {}
	first := make(same)
	if make(same) != first {
		t.Error("compiled twice")
	}
	for name, change := range map[string]func(*specs.LinuxSeccomp){
		"default":      func(p *specs.LinuxSeccomp) { p.DefaultAction = specs.ActTrap },
		"errno":        func(p *specs.LinuxSeccomp) { p.DefaultErrnoRet = u(2) },
		"architecture": func(p *specs.LinuxSeccomp) { p.Architectures = []specs.Arch{specs.ArchX86} },
		"flags":        func(p *specs.LinuxSeccomp) { p.Flags = []specs.LinuxSeccompFlag{} },
		"name":         func(p *specs.LinuxSeccomp) { p.Syscalls[0].Names[0] = "write" },
		"action":       func(p *specs.LinuxSeccomp) { p.Syscalls[0].Action = specs.ActLog },
		"rule's errno": func(p *specs.LinuxSeccomp) { p.Syscalls[0].ErrnoRet = u(0) },
		"index":        func(p *specs.LinuxSeccomp) { p.Syscalls[0].Args[0].Index = 2 },
		"value":        func(p *specs.LinuxSeccomp) { p.Syscalls[0].Args[0].Value = 6 },
		"second value": func(p *specs.LinuxSeccomp) { p.Syscalls[0].Args[0].ValueTwo = 2 },
		"operator":     func(p *specs.LinuxSeccomp) { p.Syscalls[0].Args[0].Op = specs.OpEqualTo },
		"two names":    func(p *specs.LinuxSeccomp) { p.Syscalls[0].Names = []string{"re", "ad"} },
	} {
		if make(change) == first {
			t.Errorf("another %s gets the same program", name)
		}
	}
}

func BenchmarkCompileDefault(b *testing.B) {
	p, err := Default(capabilitySets["of an ordinary container"])
	if err != nil {
		b.Fatal(err)
	}
	machine, _ := native()
	b.Run("anew", func(b *testing.B) {
		for b.Loop() {
			if _, err := compile(p, machine); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			if _, err := Compile(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("make the profile", func(b *testing.B) {
		for b.Loop() {
			if _, err := Default(capabilitySets["of an ordinary container"]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
