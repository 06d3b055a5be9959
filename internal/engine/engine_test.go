package engine_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/engine"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestClosingAPlanClosesAllItOwnsAndNothingElse(t *testing.T) {
	open := func() *linux.FD {
		f, err := linux.OpenDir("/")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	borrowed := open()
	defer borrowed.Close()
	p := &engine.Plan{Files: []*linux.FD{open(), open()}, Stdin: open(), Stdout: open(), Stderr: open(), Console: open(), Cgroup: borrowed}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range append(p.Files, p.Stdin, p.Stdout, p.Stderr, p.Console) {
		if f.Int() != -1 {
			t.Errorf("%v is still open", f)
		}
	}
	if borrowed.Int() == -1 {
		t.Error("the borrowed descriptor was closed")
	}
	if err := (*engine.Plan)(nil).Close(); err != nil {
		t.Error(err)
	}
}

func TestFailureIsThePlansWordOrTheProgramsOwn(t *testing.T) {
	b := launch.NewBuilder(launch.Native())
	b.Do("leave", launch.ExitGroup, 0)
	program, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	p := &engine.Plan{Program: program}
	if err := p.Failure(1, syscall.EPERM); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "leave") {
		t.Errorf("the program's: %v", err)
	}
	meant := errors.New("meant")
	p.Explain = func(op int, _ syscall.Errno) error {
		if op == 1 {
			return meant
		}
		return nil
	}
	if err := p.Failure(1, syscall.EPERM); err != meant {
		t.Errorf("the plan's: %v", err)
	}
	if err := p.Failure(0, syscall.EPERM); !errors.Is(err, syscall.EPERM) {
		t.Errorf("not meant: %v", err)
	}
}
