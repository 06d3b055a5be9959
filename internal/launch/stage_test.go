package launch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/launch/report"
	"fermata/internal/linux"
)

// machine is what a test's launches run on: the native stage, or the other architecture's under an emulator.
type machine struct {
	arch   Arch
	runner []string
	stage  string
	pause  string
}

// everyArch runs a test on the native stage and on the arm64 one under qemu's user mode, which knows the simple calls.
func everyArch(t *testing.T, test func(t *testing.T, on machine)) {
	t.Run(Native().String(), func(t *testing.T) { test(t, machine{arch: Native()}) })
	if Native() == ARM64 {
		return
	}
	t.Run("arm64 emulated", func(t *testing.T) {
		const qemu = "/usr/bin/qemu-aarch64-static" // Debian's qemu-user-static
		if _, err := os.Stat(qemu); err != nil {
			t.Fatal(err)
		}
		m := machine{arch: ARM64, runner: []string{qemu}}
		m.stage, m.pause = filepath.Join(t.TempDir(), "stage"), filepath.Join(t.TempDir(), "pause")
		for path, elf := range map[string][]byte{m.stage: StageELF(ARM64), m.pause: PauseELF(ARM64)} {
			if err := os.WriteFile(path, elf, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		test(t, m)
	})
}

func (m machine) run(p *Program) run { return run{program: p, runner: m.runner, stage: m.stage} }

func TestTheLastOpBecomesTheTarget(t *testing.T) {
	everyArch(t, func(t *testing.T, on machine) {
		b := NewBuilder(on.arch)
		b.Do("say", Write, 1, []byte("stage "), 6)
		b.Do("run", Execve, "/bin/sh", []string{"sh", "-c", `echo "$1 $A"; exit 7`, "sh", "target"}, []string{"A=b"})
		p := finish(t, b)
		l := start(t, on.run(p))
		if err := l.failed(p); err != nil {
			t.Fatal(err)
		}
		if out := l.output(); out != "stage target b" {
			t.Errorf("output %q", out)
		}
		if s := l.wait(); s.ExitStatus() != 7 {
			t.Errorf("ended with %v", s)
		}
	})
}

func TestAFailureIsReported(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(b *Builder)
		want string
	}{
		{"of a call", func(b *Builder) { b.Do("go away", Chdir, "/nowhere") }, "op 1 (go away): no such file or directory"},
		{"of execve", func(b *Builder) { b.Do("run", Execve, "/etc/passwd", []string{"x"}, nil) }, "op 1 (run): permission denied"},
		{"asked for", func(b *Builder) { b.Fail("no", syscall.ENOTSUP) }, "op 1 (no): operation not supported"},
		{"with an errno that no set holds", func(b *Builder) { b.Fail("no", syscall.Errno(524)).Ignore(syscall.EPERM) }, "op 1 (no): errno 524"},
		{"with an errno that the op does not ignore", func(b *Builder) { b.Fail("no", syscall.EDOM).Ignore(syscall.ENOENT, syscall.Errno(97)) }, "op 1 (no): numerical argument out of domain"},
		{"after all tries", func(b *Builder) { b.Do("try", Chdir, "/nowhere").Retry(50, syscall.ENOENT) }, "op 1 (try): no such file or directory"},
		{"by the second rule's lack of one", func(b *Builder) {
			b.Do("x", Chdir, "/etc/passwd").Ignore(syscall.ENOENT).SkipOnError(1, syscall.EACCES)
			b.Do("y", Setsid)
			b.Do("z", Setsid)
		}, "op 1 (x): not a directory"},
		{"at the end of a program that has none", func(b *Builder) { b.Do("x", Getpid) }, "op 2 (end of program): function not implemented"},
	} {
		t.Run(c.name, func(t *testing.T) {
			everyArch(t, func(t *testing.T, on machine) {
				b := NewBuilder(on.arch)
				c.make(b)
				p := finish(t, b)
				l := start(t, on.run(p))
				if err := l.failed(p); err == nil || err.Error() != c.want {
					t.Errorf("failed with %v, want %s", err, c.want)
				}
				if s := l.wait(); s.ExitStatus() != report.ExitStatus {
					t.Errorf("ended with %v", s)
				}
			})
		})
	}
}

// The stage trusts its program's contents but looks that it is one.
func TestWhatIsNoProgramIsReported(t *testing.T) {
	foreign := finish(t, NewBuilder(ARM64))
	if Native() == ARM64 {
		foreign = finish(t, NewBuilder(AMD64))
	}
	for _, c := range []struct {
		name  string
		image []byte
		want  syscall.Errno
	}{
		{"an empty file", nil, syscall.EINVAL},
		{"a short file", []byte("fermata"), syscall.ENOEXEC},
		{"another architecture's program", foreign.Image(), syscall.ENOEXEC},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Program{image: c.image}
			l := start(t, run{program: p})
			want := report.Report{Failed: true, Op: -1, Errno: c.want}
			if l.report != want {
				t.Errorf("report %+v, want %+v", l.report, want)
			}
			if s := l.wait(); s.ExitStatus() != report.ExitStatus {
				t.Errorf("ended with %v", s)
			}
		})
	}
}

// Each argument of a call may be a slot. copy_file_range has the most: it copies by offsets, of which one is a slot's address.
func TestEachArgumentMayBeASlot(t *testing.T) {
	for i := range 7 {
		t.Run(fmt.Sprintf("argument %d", i), func(t *testing.T) {
			everyArch(t, func(t *testing.T, on machine) {
				from, to := file(t, "0123456789"), file(t, "")
				b := NewBuilder(on.arch)
				offset := b.NewSlot()
				b.Let("offset", offset, 3)
				args := []any{FirstFD, b.SlotAddress(offset), FirstFD + 1, nil, 4, 0}
				for n := range args {
					if i != 6 && n != i { // 6: all
						continue
					}
					s := b.NewSlot()
					if args[n] == nil {
						args[n] = 0
					}
					b.Let("argument", s, args[n])
					args[n] = s
				}
				copied := b.NewSlot()
				b.Do("copy", CopyFileRange, args...).Save(copied)
				b.Do("exit", ExitGroup, copied)
				p := finish(t, b)
				r := on.run(p)
				r.files = []*linux.FD{from, to}
				l := start(t, r)
				if err := l.failed(p); err != nil {
					t.Fatal(err)
				}
				if s := l.wait(); s.ExitStatus() != 4 {
					t.Errorf("ended with %v, want the result 4", s)
				}
				if got, err := os.ReadFile(to.Path()); err != nil || string(got) != "3456" {
					t.Errorf("copied %q, %v", got, err)
				}
			})
		})
	}
}

func file(t *testing.T, contents string) *linux.FD {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := linux.Open(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Programs without calls, made at random, must leave the stage with the slots and the report that the model says.
func TestTheStageDoesWhatTheModelSays(t *testing.T) {
	everyArch(t, func(t *testing.T, on machine) {
		programs := 300
		if on.runner != nil {
			programs = 40 // an emulator's start each
		}
		ends := map[bool]int{}
		for seed := range uint64(programs) {
			b := NewBuilder(on.arch)
			randomOps(b, rand.New(rand.NewPCG(seed, 1)))
			b.Do("show slots", Write, 1, Address(slotAddress(0)), 8*slotCount)
			exit(b, 0)
			p := finish(t, b)
			m := &model{image: bytes.Clone(p.Image()), arch: on.arch}
			var shown []byte
			m.result = func(number int32, _ [6]uint64) int64 {
				switch number {
				case callTable[Write].number[on.arch]:
					shown = m.slots()
					return 8 * slotCount
				case callTable[ExitGroup].number[on.arch]:
					return -4096
				}
				return 0
			}
			m.run()
			if m.problem != nil {
				t.Fatalf("seed %d: %v", seed, m.problem)
			}
			want := report.Report{}
			if m.failed {
				want = report.Report{Failed: true, Op: int(m.op), Errno: syscall.Errno(m.errno)}
			}
			ends[m.failed]++
			l := start(t, on.run(p))
			if out := l.raw(); l.report != want || !bytes.Equal(out, shown) {
				t.Fatalf("seed %d: report %+v, want %+v; slots equal: %v\n%s", seed, l.report, want, bytes.Equal(out, shown), p.Listing())
			}
			l.wait()
		}
		if ends[true] < programs/20 || ends[false] < programs/20 {
			t.Errorf("one-sided programs: %v", ends)
		}
	})
}

// randomOps adds ops that make no call: results are constants and slots, rules are any.
func randomOps(b *Builder, r *rand.Rand) {
	results := []int64{0, 0, 1, 2, 5, 1 << 40, -1, -2, -13, -63, -64, -65, -127, -128, -133, -191, -192, -524, -4095, -4096, -1 << 63}
	errnos := []syscall.Errno{1, 2, 13, 63, 64, 65, 127, 128, 133, 191}
	var slots []Slot
	for range 4 {
		slots = append(slots, b.NewSlot())
	}
	some := func() (list []syscall.Errno) {
		for range 1 + r.IntN(4) {
			list = append(list, errnos[r.IntN(len(errnos))])
		}
		return list
	}
	n := 5 + r.IntN(30)
	for i := range n {
		args := []any{results[r.IntN(len(results))], 0}
		if r.IntN(3) == 0 {
			args[0] = slots[r.IntN(len(slots))]
		}
		if r.IntN(4) == 0 {
			args[1] = r.IntN(3)
		}
		if r.IntN(6) == 0 {
			args[1] = slots[r.IntN(len(slots))]
		}
		o := b.Do(fmt.Sprintf("random %d", i), none, args...)
		if r.IntN(2) == 0 {
			o.Save(slots[r.IntN(len(slots))])
		}
		ahead := func() int { return r.IntN(n - i) }
		if r.IntN(5) == 0 {
			o.Retry(1+r.IntN(5), some()...)
		}
		for range r.IntN(3) {
			o.SkipOnError(ahead(), some()...)
		}
		if r.IntN(8) > 0 {
			o.SkipOnError(ahead())
		}
		if r.IntN(3) == 0 {
			o.SkipIfZero(ahead())
		}
		if r.IntN(3) == 0 {
			o.onOther = target{skip: ahead()}
		}
	}
}

func TestExecFirstSearchesAsAShellDoes(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, f := range map[string]struct {
		contents string
		mode     os.FileMode
	}{
		"file": {"", 0o644}, "good": {"#!/bin/sh\necho good\n", 0o755}, "other": {"#!/bin/sh\necho other\n", 0o755}, "broken": {"\x7fELF", 0o755},
	} {
		if err := os.WriteFile(path(name), []byte(f.contents), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		files []string
		want  string // output, or the failure's end
	}{
		{"the first that is there", []string{path("missing"), path("good"), path("other")}, "good"},
		{"a missing directory and a file for one are passed over", []string{path("no/good"), path("file/good"), path("other")}, "other"},
		{"a forbidden one is passed over", []string{path("file"), path("other")}, "other"},
		{"nothing there", []string{path("missing"), path("no/missing")}, "(find executable missing): no such file or directory"},
		{"a forbidden one is told rather than a missing one", []string{path("missing"), path("file"), path("missing2")}, "(find executable missing): permission denied"},
		{"one that cannot run ends the search", []string{path("broken"), path("good")}, "(execute " + path("broken") + "): exec format error"},
		{"no file at all", nil, "(find executable nothing): no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBuilder(Native())
			b.ExecFirst(c.files, b.Vector([]string{"it"}), b.Vector(nil))
			p := finish(t, b)
			l := start(t, run{program: p})
			got := l.output()
			if err := l.failed(p); err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
