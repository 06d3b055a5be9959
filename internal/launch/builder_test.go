package launch

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/errs"
)

func TestMistakesAreRefusedWhenTheProgramIsBuilt(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(b *Builder)
		want string
	}{
		{"an argument of a type that no call takes", func(b *Builder) { b.Do("x", Close, 1.5) }, "float64"},
		{"more arguments than the call has", func(b *Builder) { b.Do("x", Close, 1, 2) }, "close takes 1 arguments, given 2"},
		{"a call that does not exist", func(b *Builder) { b.Do("x", calls) }, "no such call"},
		{"a NUL byte in a string", func(b *Builder) { b.Do("x", Chdir, "/a\x00b") }, "NUL"},
		{"a NUL byte in a vector", func(b *Builder) { b.Do("x", Execve, "/a", []string{"a\x00"}, nil) }, "NUL"},
		{"a path too long", func(b *Builder) { b.Do("x", Chdir, strings.Repeat("a", MaxPath+1)) }, "4096 bytes, over 4095"},
		{"an environment string too long", func(b *Builder) { b.Vector([]string{strings.Repeat("a", MaxString+1)}) }, "131072 bytes, over 131071"},
		{"data too long", func(b *Builder) { b.Bytes(make([]byte, maxImage)) }, "program over"},
		{"data too long in pieces", func(b *Builder) {
			for range 100 {
				b.Vector([]string{strings.Repeat("a", MaxString)})
			}
		}, "program over"},
		{"ops over the bytes of a program", func(b *Builder) {
			b.Bytes(make([]byte, maxImage-dataStart-100))
			b.Do("x", Setsid)
		}, "program: over 8388608 bytes"},
		{"too many ops", func(b *Builder) {
			for range maxOps {
				b.Do("x", Setsid)
			}
		}, "over 8192 ops"},
		{"too many ops with their retries", func(b *Builder) {
			for range maxOps / 4 {
				b.Do("x", Setsid).Retry(100, syscall.EAGAIN)
			}
		}, "over 8192 ops"},
		{"too many slots", func(b *Builder) {
			for range slotCount {
				b.NewSlot()
			}
		}, "slots"},
		{"a slot never made, as an argument", func(b *Builder) { b.Do("x", Close, Slot(7)) }, "slot 7 was never made"},
		{"a slot never made, to save in", func(b *Builder) { b.Do("x", Setsid).Save(3) }, "slot 3 was never made"},
		{"the builder's own slot, to save in", func(b *Builder) { b.Do("x", Setsid).Save(1) }, "slot 1 was never made"},
		{"an address outside the program", func(b *Builder) { b.Do("x", Chdir, Address(0x400000)) }, "not in the program"},
		{"a jump to a label that is nowhere", func(b *Builder) { b.Do("x", Setsid).JumpIfZero(b.NewLabel()) }, "nowhere"},
		{"a jump back", func(b *Builder) {
			l := b.NewLabel()
			b.Place(l)
			b.Do("x", Setsid).JumpOnError(l)
		}, "jumps back"},
		{"a jump to the program's end", func(b *Builder) {
			l := b.NewLabel()
			b.Do("x", Setsid).JumpIfPositive(l)
			b.Place(l)
		}, "out of the program"},
		{"a skip over the end", func(b *Builder) {
			b.Do("x", Setsid).SkipIfZero(2)
			b.Do("y", Setsid)
			b.Do("z", Setsid)
		}, "op 1 (x): jumps out of the program"},
		{"a skip backwards", func(b *Builder) { b.Do("x", Setsid).SkipOnError(-1) }, "cannot skip"},
		{"a label placed twice", func(b *Builder) { l := b.NewLabel(); b.Place(l); b.Place(l) }, "twice"},
		{"a label of nobody", func(b *Builder) { b.Do("x", Setsid).JumpIfZero(Label{}) }, "not a label"},
		{"the placing of a label of nobody", func(b *Builder) { b.Place(Label{5}) }, "not a label"},
		{"an errno that cannot be told apart", func(b *Builder) { b.Do("x", Setsid).Ignore(syscall.Errno(524)) }, "errno 524"},
		{"ignoring nothing in particular", func(b *Builder) { b.Do("x", Setsid).Ignore() }, "ignores no error"},
		{"retrying for ever", func(b *Builder) { b.Do("x", Setsid).Retry(1000, syscall.EAGAIN) }, "cannot retry"},
		{"failing without an error", func(b *Builder) { b.Fail("x", 0) }, "errno 0"},
		{"a seccomp filter that is no array of instructions", func(b *Builder) { b.Fprog(make([]byte, 9)) }, "no filter"},
		{"an architecture without a stage", func(b *Builder) { *b = *NewBuilder(arches) }, "no architecture"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBuilder(AMD64)
			c.make(b)
			p, err := b.Program()
			if err == nil {
				t.Fatalf("accepted:\n%s", p.Listing())
			}
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v (%v), want an invalid argument with %q", err, errs.KindOf(err), c.want)
			}
		})
	}
}

// No op may make a descriptor that survives execve.
func TestDescriptorsWithoutCloseOnExecAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(b *Builder)
		ok   bool
	}{
		{"openat without", func(b *Builder) { b.Do("x", Openat, -100, "/", 0, 0) }, false},
		{"openat with", func(b *Builder) { b.Do("x", Openat, -100, "/", closeOnExec, 0) }, true},
		{"openat with flags out of a slot", func(b *Builder) { b.Do("x", Openat, -100, "/", b.NewSlot()) }, false},
		{"openat2 with a structure of its own making", func(b *Builder) { b.Do("x", Openat2, -100, "/", b.Words(0, 0, 0), OpenHowSize) }, false},
		{"openat2 with OpenHow", func(b *Builder) { b.Do("x", Openat2, -100, "/", b.OpenHow(0, 0, 0), OpenHowSize) }, true},
		{"openat2 with a slot", func(b *Builder) { b.Do("x", Openat2, -100, "/", b.NewSlot(), OpenHowSize) }, false},
		{"openat2 with a slot's address", func(b *Builder) { b.Do("x", Openat2, -100, "/", b.SlotAddress(b.NewSlot()), OpenHowSize) }, false},
		{"open_tree without", func(b *Builder) { b.Do("x", OpenTree, 5, "", 1) }, false},
		{"open_tree with", func(b *Builder) { b.Do("x", OpenTree, 5, "", 1|closeOnExec) }, true},
		{"fsopen without", func(b *Builder) { b.Do("x", Fsopen, "proc", 0) }, false},
		{"fsmount without", func(b *Builder) { b.Do("x", Fsmount, 5, 0, 1) }, false},
		{"fsmount with", func(b *Builder) { b.Do("x", Fsmount, 5, 1, 0) }, true},
		{"fspick without", func(b *Builder) { b.Do("x", Fspick, 5, "", 8) }, false},
		{"pipe2 without", func(b *Builder) { b.Do("x", Pipe2, b.SlotAddress(b.NewSlot()), 0) }, false},
		{"socket without", func(b *Builder) { b.Do("x", Socket, 1, 1, 0) }, false},
		{"dup3 onto stdio", func(b *Builder) { b.Do("x", Dup3, 7, 2, 0) }, true},
		{"dup3 elsewhere without", func(b *Builder) { b.Do("x", Dup3, 7, 9, 0) }, false},
		{"dup3 elsewhere with", func(b *Builder) { b.Do("x", Dup3, 7, 9, closeOnExec) }, true},
		{"F_DUPFD", func(b *Builder) { b.Do("x", Fcntl, 7, fDupfd, 0) }, false},
		{"F_DUPFD_CLOEXEC", func(b *Builder) { b.Do("x", Fcntl, 7, 1030, 0) }, true},
		{"the mark taken off", func(b *Builder) { b.Do("x", Fcntl, 7, fSetfd, 0) }, false},
		{"the mark taken off by ioctl", func(b *Builder) { b.Do("x", Ioctl, 7, fionclex, 0) }, false},
		{"TIOCGPTPEER without", func(b *Builder) { b.Do("x", Ioctl, 7, tiocgptpeer, 2) }, false},
		{"TIOCGPTPEER with", func(b *Builder) { b.Do("x", Ioctl, 7, tiocgptpeer, 2|closeOnExec) }, true},
		{"TIOCSCTTY", func(b *Builder) { b.Do("x", Ioctl, 0, 0x540e, 0) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBuilder(AMD64)
			c.make(b)
			_, err := b.Program()
			if (err == nil) != c.ok {
				t.Errorf("Program: %v", err)
			}
		})
	}
}

func TestTheFirstMistakeIsTheOneReported(t *testing.T) {
	b := NewBuilder(AMD64)
	b.Do("good", Setsid)
	b.Do("first", Chdir, "\x00")
	b.Do("second", calls)
	if _, err := b.Program(); err == nil || !strings.HasPrefix(err.Error(), "launch op 2 (first): ") {
		t.Errorf("Program: %v", err)
	}
}

// What a caller passes may change after Do: the program keeps what it was.
func TestTheProgramOwnsItsStringsAndVectors(t *testing.T) {
	b := NewBuilder(AMD64)
	data, list := []byte("before"), []string{"before"}
	b.Do("bytes", Write, 1, data, len(data))
	b.Do("vector", Execve, "/x", list, nil)
	copy(data, "after!")
	list[0] = "after!"
	p := finish(t, b)
	if l := p.Listing(); strings.Contains(l, "after") || strings.Count(l, "before") != 2 {
		t.Errorf("listing:\n%s", l)
	}
	if bytes.Contains(p.Image(), []byte("after")) {
		t.Error("the image follows its maker's data")
	}
}

// Names hold paths that an image or a pod chose: none may forge a line of a log.
func TestNamesStayOnTheirLine(t *testing.T) {
	b := NewBuilder(AMD64)
	b.Do("mount /a\n  2 forged: reboot()\x1b[2J", Setsid)
	p := finish(t, b)
	const want = `mount /a\n  2 forged: reboot()\x1b[2J`
	if p.OpName(1) != want || strings.Count(p.Listing(), "\n") != 2 || strings.Contains(p.Failure(1, 1).Error(), "\n") {
		t.Errorf("name %s\n%s", p.OpName(1), p.Listing())
	}
}

func TestFailureNamesTheOp(t *testing.T) {
	b := NewBuilder(AMD64)
	b.Do("pivot_root", PivotRoot, ".", ".")
	p := finish(t, b)
	for _, c := range []struct {
		op   int
		want string
	}{
		{1, "op 1 (pivot_root): invalid argument"},
		{0, "op 0 (close the rest on exec): invalid argument"},
		{2, "op 2 (end of program): invalid argument"},
		{-1, "map launch program: invalid argument"},
		{3, "op 3 (not in the program): invalid argument"},
		{-2, "op -2 (not in the program): invalid argument"},
	} {
		err := p.Failure(c.op, syscall.EINVAL)
		if err.Error() != c.want || !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Failure(%d) = %v, want %s", c.op, err, c.want)
		}
	}
	if p.Len() != 2 || p.OpName(1) != "pivot_root" || p.OpName(2) != "" || p.OpName(-1) != "" {
		t.Errorf("Len %d, names %q %q", p.Len(), p.OpName(1), p.OpName(2))
	}
}

// The rules of an op about errors, retries and results, each against every result of the call in turn.
func TestWhereAnOpGoesOn(t *testing.T) {
	const fails = "fails"
	for _, c := range []struct {
		name   string
		refine func(b *Builder, o *Op, two, three Label)
		want   map[int64]string // result → "calls place": number of tries and where the program goes on
	}{
		{"by itself it fails on every error", func(*Builder, *Op, Label, Label) {},
			map[int64]string{0: "1 one", 5: "1 one", -2: fails, -13: fails, -4095: fails, -4097: "1 one"}},
		{"ignored errors go on, all of them", func(_ *Builder, o *Op, _, _ Label) { o.IgnoreErrors() },
			map[int64]string{0: "1 one", -2: "1 one", -133: "1 one", -524: "1 one", -4095: "1 one"}},
		{"ignored errors go on, others fail", func(_ *Builder, o *Op, _, _ Label) { o.Ignore(syscall.ENOENT, syscall.Errno(133), syscall.ENOTDIR) },
			map[int64]string{0: "1 one", -2: "1 one", -20: "1 one", -133: "1 one", -3: fails, -66: fails, -84: fails, -524: fails}},
		{"a skip on errors skips as many", func(_ *Builder, o *Op, _, _ Label) { o.SkipOnError(1, syscall.ENOENT) },
			map[int64]string{0: "1 one", -2: "1 two", -3: fails}},
		{"a jump on any error", func(_ *Builder, o *Op, _, three Label) { o.JumpOnError(three) },
			map[int64]string{0: "1 one", 7: "1 one", -2: "1 three", -1000: "1 three"}},
		{"several rules, each error by the first that names it", func(_ *Builder, o *Op, two, three Label) {
			o.JumpOnError(three, syscall.ENOENT).JumpOnError(two, syscall.EACCES, syscall.ENOENT).Ignore(syscall.ENOTDIR)
		}, map[int64]string{0: "1 one", 1: "1 one", -2: "1 three", -13: "1 two", -20: "1 one", -1: fails}},
		{"several rules and the rest", func(_ *Builder, o *Op, two, three Label) {
			o.JumpOnError(three, syscall.ENOENT).JumpOnError(two, syscall.EACCES).IgnoreErrors().JumpOnError(two, syscall.EPERM)
		}, map[int64]string{0: "1 one", -2: "1 three", -13: "1 two", -1: "1 one", -999: "1 one"}},
		{"zero jumps", func(_ *Builder, o *Op, two, _ Label) { o.JumpIfZero(two) },
			map[int64]string{0: "1 two", 9: "1 one", -2: fails}},
		{"zero skips", func(_ *Builder, o *Op, _, _ Label) { o.SkipIfZero(2) },
			map[int64]string{0: "1 three", 9: "1 one", -2: fails}},
		{"above zero jumps", func(_ *Builder, o *Op, two, _ Label) { o.JumpIfPositive(two) },
			map[int64]string{0: "1 one", 9: "1 two", -2: fails}},
		{"a retry tries so often, then fails", func(_ *Builder, o *Op, _, _ Label) { o.Retry(3, syscall.EAGAIN) },
			map[int64]string{0: "1 one", 9: "1 one", -11: fails + " after 4", -2: fails}},
		{"a retry tries so often, then rules decide", func(_ *Builder, o *Op, two, three Label) {
			o.Retry(3, syscall.EAGAIN).JumpOnError(two, syscall.EAGAIN).JumpOnError(three, syscall.ENOENT).JumpIfZero(three)
		}, map[int64]string{0: "1 three", 9: "1 one", -11: "4 two", -2: "1 three", -3: fails}},
		{"a retry with the rest ignored", func(_ *Builder, o *Op, _, _ Label) { o.Retry(2, syscall.EAGAIN).IgnoreErrors() },
			map[int64]string{0: "1 one", -11: "3 one", -2: "1 one", -600: "1 one"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBuilder(AMD64)
			two, three := b.NewLabel(), b.NewLabel()
			o := b.Do("the op", Getpid)
			b.Do("one", ExitGroup, 1)
			b.Place(two)
			b.Do("two", ExitGroup, 2)
			b.Place(three)
			b.Do("three", ExitGroup, 3)
			c.refine(b, o, two, three)
			p := finish(t, b)
			for result, want := range c.want {
				if got := goesOn(t, p, result); got != want {
					t.Errorf("after %d: %s, want %s\n%s", result, got, want, p.Listing())
				}
			}
		})
	}
}

// goesOn says where a program of TestWhereAnOpGoesOn ends if getpid has a result.
func goesOn(t *testing.T, p *Program, result int64) string {
	t.Helper()
	tries, place := 0, ""
	m := &model{image: bytes.Clone(p.Image()), arch: AMD64, result: func(number int32, args [6]uint64) int64 {
		switch number {
		case callTable[Getpid].number[AMD64]:
			tries++
			return result
		case callTable[ExitGroup].number[AMD64]:
			place = []string{"?", "one", "two", "three"}[args[0]]
			return -4096
		}
		return 0
	}}
	m.run()
	switch {
	case m.problem != nil:
		t.Fatal(m.problem)
	case m.failed && (m.op != 1 || m.errno != -result):
		t.Fatalf("failure of op %d with %d, want op 1 with %d", m.op, m.errno, -result)
	case m.failed && tries > 1:
		return fmt.Sprintf("fails after %d", tries)
	case m.failed:
		return "fails"
	}
	return fmt.Sprintf("%d %s", tries, place)
}
