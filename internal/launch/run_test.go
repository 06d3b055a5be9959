package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"fermata/internal/launch/report"
	"fermata/internal/linux"
)

// The keeper's part, as small as it can be, for these tests.

// run is one launch of a test.
type run struct {
	program *Program
	files   []*linux.FD // 5…
	sys     syscall.SysProcAttr
	stdin   *os.File
	// runner, with arguments, executes a foreign stage.
	runner []string
	stage  string
}

// launched is what became of it.
type launched struct {
	t      *testing.T
	pid    int
	report report.Report
	out    *os.File
	rd     *os.File // the report pipe's end
	waited bool
	status syscall.WaitStatus
}

func stagePath(t *testing.T) (stage, pause *linux.FD) {
	t.Helper()
	f, err := NewStage("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f.Stage, f.Pause
}

// start launches a program and reads its report; the process is killed and reaped when the test ends.
func start(t *testing.T, r run) *launched {
	t.Helper()
	l := begin(t, r)
	l.await()
	return l
}

// await reads the report: until the target runs, or all who have the pipe ended.
func (l *launched) await() {
	l.t.Helper()
	var err error
	if l.report, err = report.Read(l.rd); err != nil {
		l.t.Fatal(err)
	}
}

// begin is start without waiting for anything.
func begin(t *testing.T, r run) *launched {
	t.Helper()
	memory, err := r.program.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	rd, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rd.Close() })
	defer wr.Close()
	out, outw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	defer outw.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if r.stdin == nil {
		r.stdin = null
	}
	files := []uintptr{r.stdin.Fd(), outw.Fd(), outw.Fd(), wr.Fd(), uintptr(memory.Int())}
	for _, f := range r.files {
		files = append(files, uintptr(f.Int()))
	}
	path, argv := r.stage, []string{"fermata-stage"}
	if path == "" {
		stage, _ := stagePath(t)
		high, err := unix.FcntlInt(uintptr(stage.Int()), unix.F_DUPFD_CLOEXEC, 100) // see Files.Stage
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(high)
		path = fmt.Sprintf("/proc/self/fd/%d", high)
	}
	if r.runner != nil {
		argv = append(r.runner, path)
		path = r.runner[0]
	}
	sys := r.sys
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: []string{}, Files: files, Sys: &sys})
	if err != nil {
		t.Fatalf("fork and exec the stage: %v", err)
	}
	runtime.KeepAlive(r.files)
	l := &launched{t: t, pid: pid, out: out, rd: rd}
	t.Cleanup(func() {
		if !l.waited {
			syscall.Kill(pid, syscall.SIGKILL)
			l.wait()
		}
	})
	return l
}

// wait reaps the launched process.
func (l *launched) wait() syscall.WaitStatus {
	if !l.waited {
		for {
			_, err := syscall.Wait4(l.pid, &l.status, 0, nil)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		l.waited = true
	}
	return l.status
}

// output reads all that the process and its children wrote to stdout and stderr, until they end.
func (l *launched) output() string { return string(bytes.TrimSpace(l.raw())) }

func (l *launched) raw() []byte {
	l.t.Helper()
	b, err := io.ReadAll(l.out)
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// failed returns the failure of a launch as the daemon would word it, nil if it succeeded.
func (l *launched) failed(p *Program) error {
	if !l.report.Failed {
		return nil
	}
	return p.Failure(l.report.Op, l.report.Errno)
}

// finish builds the program.
func finish(t *testing.T, b *Builder) *Program {
	t.Helper()
	p, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// exit ends a program with a status that tells where it came to.
func exit(b *Builder, status int) { b.Do("exit", ExitGroup, status) }
