package launch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fermata/internal/linux"
)

// until looks until something is so. What is waited for here has no event: a process naming itself, the kernel reaping.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never %s", what)
		}
	}
}

// comm returns a process's name.
func comm(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(b))
}

func TestProcessesBearTheirNames(t *testing.T) {
	everyArch(t, func(t *testing.T, on machine) {
		b := NewBuilder(on.arch)
		ready, hold := b.NewSlot(), b.NewSlot()
		b.Do("say that it is running", Write, 1, []byte("x"), 1).Save(ready)
		b.Do("wait", Read, 0, b.SlotAddress(hold), 8)
		exit(b, 0)
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		r := on.run(finish(t, b))
		r.stdin = in
		l := begin(t, r)
		until(t, "a stage called so", func() bool { return comm(l.pid) == "fermata-stage" })
		out.Close()
		l.wait()

		var pause *launched
		if on.runner != nil {
			b := NewBuilder(on.arch)
			b.Do("emulate pause", Execve, on.runner[0], []string{on.runner[0], on.pause}, []string{})
			pause = start(t, on.run(finish(t, b)))
		} else {
			pause, _ = pod(t)
		}
		until(t, "a pause called so", func() bool { return comm(pause.pid) == "fermata-pause" })
		if s := status(t, pause.pid)["State"]; !strings.HasPrefix(s, "S") && !strings.HasPrefix(s, "R") {
			t.Errorf("pause is %s", s)
		}
	})
}

// children reads a list of children.
func children(path string) (pids []int) {
	b, _ := os.ReadFile(path) // a thread may end meanwhile
	for _, f := range strings.Fields(string(b)) {
		var pid int
		fmt.Sscan(f, &pid)
		pids = append(pids, pid)
	}
	return pids
}

// pause as PID 1 of a pod ends by SIGKILL from outside and by nothing else; stopping and continuing leaves it waiting.
func TestPauseWaitsForEver(t *testing.T) {
	l, pidfd := pod(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGCHLD, syscall.SIGSTOP, syscall.SIGCONT} {
		if err := unix.PidfdSendSignal(pidfd.Int(), sig, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "waiting in ppoll", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", l.pid))
		return strings.HasPrefix(string(b), fmt.Sprint(callTable[Ppoll].number[Native()])+" ")
	})
	if err := unix.PidfdSendSignal(pidfd.Int(), unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if s := l.wait(); s.Signal() != syscall.SIGKILL {
		t.Errorf("ended with %v", s)
	}
}

// Half of 1,000 orphans are dead when their parent dies, half die after: pause, whose program ignores SIGCHLD, keeps none as a zombie. Without that
// program it keeps all, which shows that the test would see them.
func TestPauseLeavesNoZombies(t *testing.T) {
	const orphans = 1000
	for _, c := range []struct {
		name    string
		handler uint64
		want    int
	}{
		{"none, as SIGCHLD is ignored", SigIgnore, 0},
		{"all, if it were not", SigDefault, orphans},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, pause := stagePath(t)
			b := NewBuilder(Native())
			b.Do("SIGCHLD", RtSigaction, int(unix.SIGCHLD), b.SigAction(c.handler), nil, SigsetSize)
			b.Do("become pause", Execveat, FirstFD, "", []string{"/pause"}, []string{}, unix.AT_EMPTY_PATH)
			p := finish(t, b)
			l := start(t, run{program: p, files: []*linux.FD{pause}, sys: syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}})
			if err := l.failed(p); err != nil {
				t.Fatal(err)
			}
			makeOrphans(t, l.pid, orphans)
			path := fmt.Sprintf("/proc/%d/task/%d/children", l.pid, l.pid)
			zombies := func() int { return len(children(path)) }
			if c.want == 0 {
				until(t, "without zombies", func() bool { return zombies() == 0 })
			} else {
				until(t, "with all zombies", func() bool { return zombies() == c.want })
			}
		})
	}
}

// makeOrphans gives the PID namespace of a process so many orphans, and returns when all have ended.
func makeOrphans(t *testing.T, pid, n int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := linux.NewFD(fd, "pidfd")
	defer pidfd.Close()
	gate, open, err := os.Pipe() // the late ones wait for its end of file
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	defer open.Close()
	b := NewBuilder(Native())
	inside, late, end := b.NewLabel(), b.NewLabel(), b.NewLabel()
	b.Do("join", Setns, FirstFD, unix.CLONE_NEWPID)
	b.Do("enter", Clone, int(unix.SIGCHLD)).JumpIfZero(inside)
	b.Do("wait for the parent of orphans", Wait4, -1, nil, 0, nil)
	exit(b, 0)
	b.Place(inside)
	for i := range n {
		o := b.Do("orphan", Clone, int(unix.SIGCHLD))
		if i%2 == 0 {
			o.JumpIfZero(end)
		} else {
			o.JumpIfZero(late)
		}
	}
	b.Goto(end)
	b.Place(late)
	b.Do("wait to be late", Read, 0, b.SlotAddress(b.NewSlot()), 8)
	b.Place(end)
	exit(b, 0)
	p := finish(t, b)
	l := begin(t, run{program: p, files: []*linux.FD{pidfd}, stdin: gate})
	until(t, "the late ones adopted", func() bool {
		return len(children(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))) >= n/2
	})
	open.Close()
	l.await() // the last orphan's copy of the report pipe closes as it ends
	if err := l.failed(p); err != nil {
		t.Fatal(err)
	}
	if s := l.wait(); s != 0 {
		t.Fatalf("orphans' grandparent ended with %v", s)
	}
}

// An exec joins a PID namespace by a child that is the keeper's own, and says which.
func TestAClonedProcessIsReported(t *testing.T) {
	sandbox, pidfd := pod(t)
	_, pause := stagePath(t)
	b := NewBuilder(Native())
	child, pid := b.NewLabel(), b.NewSlot()
	b.Do("join", Setns, FirstFD, unix.CLONE_NEWPID)
	b.Do("enter", Clone, unix.CLONE_PARENT|int(unix.SIGCHLD)).Save(pid).JumpIfZero(child)
	b.ReportPID(pid)
	exit(b, 0)
	b.Place(child)
	b.Do("become pause", Execveat, FirstFD+1, "", []string{"x"}, []string{}, unix.AT_EMPTY_PATH)
	p := finish(t, b)
	l := start(t, run{program: p, files: []*linux.FD{pidfd, pause}})
	if err := l.failed(p); err != nil {
		t.Fatal(err)
	}
	if s := l.wait(); s != 0 {
		t.Errorf("the first process ended with %v", s)
	}
	got := l.report.PID
	defer func() {
		syscall.Kill(got, syscall.SIGKILL)
		if _, err := syscall.Wait4(got, nil, 0, nil); err != nil {
			t.Errorf("%d is no child: %v", got, err)
		}
	}()
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", got))
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", sandbox.pid))
	if err != nil || err2 != nil || mine != theirs {
		t.Errorf("PID %d reported, in %s, want %s: %v %v", got, mine, theirs, err, err2)
	}
}

// Parent and child write into one pipe, in either order.
func TestAClonedProcessThatFailsIsReportedToo(t *testing.T) {
	for _, c := range []struct {
		name       string
		childFirst bool
	}{{"after its PID", false}, {"before its PID", true}} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBuilder(Native())
			child, pid, hold := b.NewLabel(), b.NewSlot(), b.NewSlot()
			flags := unix.CLONE_PARENT | int(unix.SIGCHLD)
			if c.childFirst {
				flags |= unix.CLONE_VFORK // the parent goes on when the child has ended
			}
			b.Do("fork", Clone, flags).Save(pid).JumpIfZero(child)
			b.ReportPID(pid)
			exit(b, 0)
			b.Place(child)
			if !c.childFirst {
				b.Do("wait", Read, 0, b.SlotAddress(hold), 8)
			}
			b.Fail("child fails", syscall.EXDEV)
			in, out, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			defer out.Close()
			p := finish(t, b)
			l := begin(t, run{program: p, stdin: in})
			if s := l.wait(); s != 0 {
				t.Errorf("the parent ended with %v", s)
			}
			out.Close()
			l.await()
			if err := l.failed(p); !errors.Is(err, syscall.EXDEV) || l.report.PID == 0 {
				t.Errorf("report %+v, failed with %v", l.report, err)
			}
			if _, err := syscall.Wait4(l.report.PID, nil, 0, nil); err != nil {
				t.Errorf("%d is no child: %v", l.report.PID, err)
			}
		})
	}
}

// CVE-2019-5736: a container reaches pause (and for an instant the stage) by /proc/PID/exe.
func TestExecutablesCannotBeWritten(t *testing.T) {
	files, err := NewStage("")
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	b := NewBuilder(Native())
	b.Do("become pause", Execveat, FirstFD, "", []string{"x"}, []string{}, unix.AT_EMPTY_PATH)
	l := start(t, run{program: finish(t, b), files: []*linux.FD{files.Pause}})
	exe := fmt.Sprintf("/proc/%d/exe", l.pid)
	kept, err := linux.OpenPath(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	try := func(when, path string) {
		for name, err := range map[string]error{
			"open for writing": open(path, os.O_WRONLY), "open to append": open(path, os.O_WRONLY|os.O_APPEND), "truncate": os.Truncate(path, 0),
			"chmod": os.Chmod(path, 0o777), "chown": os.Chown(path, 1, 1),
		} {
			if !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: %s of %s: %v, want EROFS", when, name, path, err)
			}
		}
	}
	try("running", exe)
	try("running", kept.Path())
	syscall.Kill(l.pid, syscall.SIGKILL)
	l.wait()
	try("ended", kept.Path())
	try("ended", files.Stage.Path())
	if link, _ := os.Readlink(kept.Path()); !strings.HasPrefix(link, "/fermata-pause") {
		t.Errorf("the executable is called %s", link)
	}
}

func open(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0)
	if err == nil {
		f.Close()
	}
	return err
}

// Everybody in a pod may execute pause, nobody may become somebody by it.
func TestModesOfTheExecutables(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	stage, pause := stagePath(t)
	for _, f := range []*linux.FD{stage, pause} {
		var st syscall.Stat_t
		if err := syscall.Stat(f.Path(), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != syscall.S_IFREG|0o555 || st.Uid != 0 || st.Nlink != 1 {
			t.Errorf("%s: mode %o, uid %d, %d links", f.Name(), st.Mode, st.Uid, st.Nlink)
		}
	}
}
