package launch

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// golden compares with testdata/name, or rewrites it (-update).
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// smallProgram has each kind of argument and of rule once.
func smallProgram(b *Builder) {
	end := b.NewLabel()
	s := b.NewSlot()
	b.Do("open", Openat, -100, "/etc", closeOnExec|openDirectory(b.arch), 0).Save(s).Ignore(syscall.ENOENT)
	b.Do("use", Fchdir, s).Retry(3, syscall.EAGAIN, syscall.EINTR).JumpOnError(end, syscall.EACCES).IgnoreErrors()
	b.Let("set", s, -5)
	b.Test("look", s).JumpOnError(end).SkipIfZero(1).JumpIfPositive(end)
	b.Do("write", Write, 1, []byte("hello\n"), 6)
	b.Do("binary", Write, 1, make([]byte, 100), 100)
	b.Do("nothing", Write, 1, []byte{}, 0)
	b.Do("to a slot", Read, 0, b.SlotAddress(s), 8)
	b.Do("long", Chdir, strings.Repeat("a/", 150))
	b.Place(end)
	b.ReportPID(s)
	b.ExecFirst([]string{"/usr/bin/x", "/bin/x"}, b.Vector([]string{"x", "-v", ""}), b.Vector([]string{"TOKEN=secret", "odd"}))
}

func TestGoldenListings(t *testing.T) {
	for name, program := range map[string]func(*Builder){"small": smallProgram, "sandbox": sandboxProgram, "container": containerProgram} {
		for a := range arches {
			t.Run(fmt.Sprintf("%s %s", name, a), func(t *testing.T) {
				b := NewBuilder(a)
				program(b)
				l := finish(t, b).Listing()
				golden(t, fmt.Sprintf("%s.%s.listing", name, a), l)
				if strings.Contains(l, "secret") || strings.Contains(l, "hunter2") {
					t.Error("the listing tells a secret")
				}
			})
		}
	}
}

// The bytes that the stages of every version in the field agree on, and those that run.
func TestGoldenBytes(t *testing.T) {
	for a := range arches {
		b := NewBuilder(a)
		smallProgram(b)
		for name, data := range map[string][]byte{"stage": StageELF(a), "pause": PauseELF(a), "small": finish(t, b).Image()} {
			t.Run(fmt.Sprintf("%s %s", name, a), func(t *testing.T) { golden(t, fmt.Sprintf("%s.%s.hex", name, a), hex.Dump(data)) })
		}
	}
}
