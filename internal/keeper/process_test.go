package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/keeper"
	"fermata/internal/keeper/wire"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

func TestHowAProcessEndsIsTold(t *testing.T) {
	w := start(t, keeper.Options{})
	for i, c := range []struct {
		name, script string
		code         int
		signal       syscall.Signal
	}{
		{"well", "exit 0", 0, 0},
		{"with a status", "exit 37", 37, 0},
		{"by a signal", "kill -TERM $$", 143, syscall.SIGTERM},
		{"by SIGKILL", "kill -KILL $$", 137, syscall.SIGKILL},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := fmt.Sprintf("p%d", i)
			launched := w.sh(id, c.script)
			e := w.exits.of(id)
			if e.Code != c.code || e.Signal != c.signal || e.PID != launched.PID || e.Kind != wire.Container || e.OOMKilled {
				t.Errorf("exit %+v", e)
			}
			if !e.Started.Equal(launched.Started) || e.Finished.Before(e.Started) {
				t.Errorf("started %v (launched %v), finished %v", e.Started, launched.Started, e.Finished)
			}
			if err := w.Signal(t.Context(), id, syscall.SIGTERM); !errs.Is(err, errs.NotFound) {
				t.Errorf("signal to an ended process: %v", err)
			}
		})
	}
}

func TestARunningProcessIsListedAndSignalled(t *testing.T) {
	w := start(t, keeper.Options{})
	launched := w.sh("p", "trap 'exit 5' TERM; while :; do sleep 1000 & wait; done")
	processes, err := w.Processes(t.Context())
	if err != nil || len(processes) != 1 {
		t.Fatalf("processes %+v, %v", processes, err)
	}
	if p := processes[0]; p.ID != "p" || p.PID != launched.PID || p.PidfdInode != launched.PidfdInode || p.Exit != nil || p.PidfdInode == 0 {
		t.Errorf("listed %+v, launched %+v", p, launched)
	}
	pidfd, err := w.Pidfd(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if inode, err := pidfd.Inode(); err != nil || inode != launched.PidfdInode {
		t.Errorf("another pidfd: inode %d, %v", inode, err)
	}
	if err := w.Forget(t.Context(), "p"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a running process was forgotten: %v", err)
	}
	if err := w.Shutdown(t.Context()); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a keeper that holds a process was shut down: %v", err)
	}
	again := w.request("p", w.program([]string{"/bin/true"}))
	if _, err := w.Launch(t.Context(), again); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("an ID was used twice: %v", err)
	}
	if err := w.Signal(t.Context(), "p", syscall.SIGKILL); err != nil { // its child is in a session that ends with nobody; see below
		t.Fatal(err)
	}
	if e := w.exits.of("p"); e.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v", e)
	}
	syscall.Kill(-launched.PID, syscall.SIGKILL) // the shell's sleep
	if err := w.Forget(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"forget": w.Forget(t.Context(), "p"), "signal": w.Signal(t.Context(), "p", 0), "close stdin": w.CloseStdin(t.Context(), "p"),
	} {
		if !errs.Is(err, errs.NotFound) {
			t.Errorf("%s of a forgotten process: %v", what, err)
		}
	}
}

func TestAFailedLaunchNamesItsStepAndLeavesNothing(t *testing.T) {
	w := start(t, keeper.Options{})
	b := launch.NewBuilder(launch.Native())
	b.Do("go nowhere", launch.Chdir, "/does/not/exist")
	b.Do("exit", launch.ExitGroup, 0)
	program, err := b.Program()
	if err != nil {
		t.Fatal(err)
	}
	memory, err := program.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for range 2 { // the ID is free again
		_, err = w.Launch(t.Context(), w.request("p", memory, w.logged))
		e := launchFailure(err)
		if e == nil || e.Errno != syscall.ENOENT || !errors.Is(err, syscall.ENOENT) || program.OpName(e.Op) != "go nowhere" {
			t.Fatalf("error %+v, want ENOENT of the step", err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(w.o.State, "*", "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if processes, err := w.Processes(t.Context()); err != nil || len(processes) != 0 {
		t.Errorf("listed: %v, %v", processes, err)
	}
}

func TestWhatCannotBeStartedFailsBeforeItsProgram(t *testing.T) {
	w := start(t, keeper.Options{})
	l := w.request("p", w.program([]string{"/bin/true"}))
	l.FDs[0].FD = w.logDir // no program at all
	_, err := w.Launch(t.Context(), l)
	if e := launchFailure(err); e == nil || e.Op != -1 || e.Errno != syscall.EACCES {
		t.Errorf("error %+v", err)
	}
	l = w.request("p", w.logDir) // a stage without its program
	_, err = w.Launch(t.Context(), l)
	if e := launchFailure(err); e == nil || e.Op != -1 || e.Errno == 0 {
		t.Errorf("error %+v", err)
	}
}

// clone makes a program whose process is a child that it clones.
func clone(b *launch.Builder, child func()) {
	pid := b.NewSlot()
	inChild := b.NewLabel()
	b.Do("clone", launch.Clone, syscall.CLONE_PARENT|int(syscall.SIGCHLD), 0, 0, 0, 0).Save(pid).JumpIfZero(inChild)
	b.ReportPID(pid)
	b.Do("exit", launch.ExitGroup, 0)
	b.Place(inChild)
	child()
}

func TestAClonedChildIsTheProcess(t *testing.T) {
	w := start(t, keeper.Options{})
	b := launch.NewBuilder(launch.Native())
	clone(b, func() {
		b.Do("execute", launch.Execve, "/bin/sh", []string{"/bin/sh", "-c", "echo $$; exit 9"}, []string{})
	})
	launched := w.run(w.request("p", w.memory(b), w.logged))
	if e := w.exits.of("p"); e.Code != 9 || e.PID != launched.PID {
		t.Errorf("exit %+v of process %d", e, launched.PID)
	}
	if got, want := w.entries("p.log"), fmt.Sprintf("[stdout F %d]", launched.PID); fmt.Sprint(got) != want {
		t.Errorf("log %q, want %q", got, want)
	}

	b = launch.NewBuilder(launch.Native())
	clone(b, func() { b.Do("go nowhere", launch.Chdir, "/does/not/exist"); b.Do("exit", launch.ExitGroup, 0) })
	_, err := w.Launch(t.Context(), w.request("q", w.memory(b)))
	if e := launchFailure(err); e == nil || e.Errno != syscall.ENOENT {
		t.Errorf("a failure of the child: %v", err)
	}
}

// gated is a launch whose program hangs until it is released.
func (w *world) gated(id string, args ...string) (l *wire.Launch, release func()) {
	w.t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	end, err := syscall.Dup(int(reader.Fd()))
	if err != nil {
		w.t.Fatal(err)
	}
	reader.Close()
	gate := linux.NewFD(end, "gate of "+id)
	w.t.Cleanup(func() {
		gate.Close()
		writer.Close()
	})
	program := w.program(args, func(b *launch.Builder) {
		b.Do("wait for the test", launch.Read, launch.FirstFD, b.SlotAddress(b.NewSlot()), 1)
	})
	l = w.request(id, program, func(l *wire.Launch) { l.FDs = append(l.FDs, wire.PassedFD{Role: wire.Child, FD: gate}) })
	return l, func() { writer.Write([]byte{1}) }
}

// A daemon killed in the middle of a launch is followed by one that lists: it must find the process, or the repeated start is refused.
func TestAListWaitsForALaunchUnderWay(t *testing.T) {
	w := start(t, keeper.Options{})
	l, release := w.gated("p", "/bin/sleep", "100")
	launched := make(chan error, 1)
	go func() {
		got, err := w.Launch(t.Context(), l)
		if err == nil {
			err = got.Pidfd.Close()
		}
		launched <- err
	}()
	w.eventually("the launch is under way", func() bool { return w.Signal(t.Context(), "p", 0) == nil })
	type list struct {
		all []wire.Process
		err error
	}
	listed := make(chan list, 1)
	go func() { all, err := w.Processes(t.Context()); listed <- list{all, err} }()
	w.Signal(t.Context(), "nobody", 0) // answered: what was asked before it has been taken up
	release()
	if err := <-launched; err != nil {
		t.Fatal(err)
	}
	if got := <-listed; got.err != nil || len(got.all) != 1 || got.all[0].ID != "p" {
		t.Errorf("listed during the launch: %+v, %v", got.all, got.err)
	}
	if err := w.Signal(t.Context(), "p", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.exits.of("p")
}

func TestALaunchThatHangsIsGivenUpBySignal(t *testing.T) {
	w := start(t, keeper.Options{})
	l, _ := w.gated("p", "/bin/true")
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { _, err := w.Launch(ctx, l); result <- err }()
	w.eventually("the launch under way can be signalled", func() bool { return w.Signal(t.Context(), "p", 0) == nil })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("launch: %v", err)
	}
	if err := w.Signal(t.Context(), "p", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := w.exits.of("p"); e.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v", e)
	}
}

// Killed between cloning the process and telling of it, a launch leaves one that nobody knows: alive it holds the report open for ever, dead it stays
// a zombie of the keeper's.
func TestALaunchGivenUpBeforeItToldOfItsChildLeavesNone(t *testing.T) {
	w := start(t, keeper.Options{})
	l, _ := w.gated("p", "/bin/true")
	b := launch.NewBuilder(launch.Native())
	hang := func() { b.Do("wait for ever", launch.Read, launch.FirstFD, b.SlotAddress(b.NewSlot()), 1) }
	pid, inChild := b.NewSlot(), b.NewLabel()
	b.Do("clone", launch.Clone, syscall.CLONE_PARENT|int(syscall.SIGCHLD), 0, 0, 0, 0).Save(pid).JumpIfZero(inChild)
	hang() // never tells
	b.Do("exit", launch.ExitGroup, 0)
	b.Place(inChild)
	hang()
	b.Do("exit", launch.ExitGroup, 0)
	for i := range l.FDs {
		if l.FDs[i].Role == wire.Program {
			l.FDs[i].FD = w.memory(b)
		}
	}
	launched := make(chan struct{})
	go func() {
		defer close(launched)
		if got, err := w.Launch(t.Context(), l); err == nil {
			got.Pidfd.Close()
		}
	}()
	w.eventually("both processes are there", func() bool { return len(children(t)) == 2 })
	if err := w.Signal(t.Context(), "p", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := w.exits.of("p"); e.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v", e)
	}
	<-launched
	if left := children(t); len(left) != 0 {
		t.Errorf("children left: %v", left)
	}
}

// children are this process's, which runs the keeper, zombies included.
func children(t *testing.T) (pids []string) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err == nil { // else the thread ended meanwhile
			pids = append(pids, strings.Fields(string(b))...)
		}
	}
	return pids
}

func TestDescriptorsArriveInOrder(t *testing.T) {
	w := start(t, keeper.Options{})
	var passed []wire.PassedFD
	for i := range 80 { // over one message's
		name := filepath.Join(w.dir, fmt.Sprint("file", i))
		if err := os.WriteFile(name, []byte(fmt.Sprintln(i)), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := linux.Open(name, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		passed = append(passed, wire.PassedFD{Role: wire.Child, FD: f})
	}
	for i, want := range map[int]string{5: "0", 6: "1", 68: "63", 69: "64", 84: "79"} {
		id := fmt.Sprint("p", i)
		program := w.program([]string{"/bin/cat"}, func(b *launch.Builder) { b.Do("read that one", launch.Dup3, i, 0, 0) })
		w.run(w.request(id, program, w.logged, func(l *wire.Launch) { l.FDs = append(l.FDs, passed...) }))
		w.exits.of(id)
		if got := fmt.Sprint(w.entries(id + ".log")); got != "[stdout F "+want+"]" {
			t.Errorf("descriptor %d: log %v, want %v", i, got, want)
		}
	}
}

func TestNamespacesOutliveTheirPause(t *testing.T) {
	w := start(t, keeper.Options{})
	b := launch.NewBuilder(launch.Native())
	b.Do("become pause", launch.Execveat, launch.FirstFD, "", []string{"pause"}, []string{}, 0x1000)
	l := w.request("p", w.memory(b), func(l *wire.Launch) {
		l.Kind = wire.Pause
		l.CloneFlags = linux.CloneNewUTS | linux.CloneNewIPC | linux.CloneNewNet | linux.CloneNewPID
		l.FDs = append(l.FDs, wire.PassedFD{Role: wire.Child, FD: w.stage.Pause})
	})
	launched := w.run(l)
	inodes := func() map[string]uint64 {
		namespaces, err := w.Namespaces(t.Context(), "p")
		if err != nil {
			t.Fatal(err)
		}
		inodes := map[string]uint64{}
		for name, fd := range namespaces {
			if inodes[name], err = fd.Inode(); err != nil {
				t.Error(err)
			}
			fd.Close()
		}
		return inodes
	}
	before := inodes()
	for _, kind := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		own, err := linux.NamespaceOf(os.Getpid(), kind)
		if err != nil {
			t.Fatal(err)
		}
		ownInode, _ := own.Inode()
		own.Close()
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", launched.PID, kind))
		if err != nil || its != fmt.Sprintf("%s:[%d]", kind, before[kind]) {
			t.Errorf("%s: %d held, the process has %s, %v", kind, before[kind], its, err)
		}
		if (before[kind] == ownInode) != (kind == "mnt") {
			t.Errorf("%s: inode %d, ours %d", kind, before[kind], ownInode)
		}
	}
	if err := w.Signal(t.Context(), "p", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := w.exits.of("p"); e.Kind != wire.Pause || e.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v", e)
	}
	if after := inodes(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("namespaces %v after the pause's death, %v before", after, before)
	}
	if _, err := w.Namespaces(t.Context(), "q"); !errs.Is(err, errs.NotFound) {
		t.Errorf("namespaces of nobody: %v", err)
	}
}

func TestTheOOMKillerIsNoticed(t *testing.T) {
	w := start(t, keeper.Options{})
	for _, c := range []struct {
		name, after, script string
		want                bool
	}{
		{"killed", "low 0\noom 3\noom_kill 3\noom_group_kill 0\n", "kill -KILL $$", true},
		{"another process of it was killed and it gave up", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "exit 1", true},
		{"another process of it was killed and it ended well", "oom_kill 3\n", "exit 0", false},
		{"killed by somebody else", "oom_kill 2\n", "kill -KILL $$", false},
		{"the file says nothing", "", "exit 1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := strings.ReplaceAll(c.name, " ", "-")
			path, gate := filepath.Join(w.dir, id), filepath.Join(w.dir, id+".gate")
			if err := os.WriteFile(path, []byte("oom_kill 2\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := linux.Mkfifo(gate, 0, 0); err != nil {
				t.Fatal(err)
			}
			counter, err := linux.Open(path, os.O_RDONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer counter.Close()
			w.sh(id, "read x < "+gate+"; "+c.script, func(l *wire.Launch) { l.FDs = append(l.FDs, wire.PassedFD{Role: wire.OOM, FD: counter}) })
			if err := os.WriteFile(path, []byte(c.after), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(gate, []byte("\n"), 0); err != nil {
				t.Fatal(err)
			}
			if e := w.exits.of(id); e.OOMKilled != c.want {
				t.Errorf("exit %+v, want OOMKilled %v", e, c.want)
			}
		})
	}
}

func TestManyLaunchesAtOnce(t *testing.T) {
	w := start(t, keeper.Options{})
	const many = 200
	var wg sync.WaitGroup
	for i := range many {
		program := w.program([]string{"/bin/sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)})
		l := w.request(fmt.Sprint("p", i), program, w.logged)
		wg.Go(func() {
			launched, err := w.Launch(t.Context(), l)
			if err != nil {
				t.Error(err)
				return
			}
			launched.Pidfd.Close()
		})
	}
	wg.Wait()
	for i := range many {
		id := fmt.Sprint("p", i)
		if e := w.exits.of(id); e.Code != i {
			t.Errorf("%s ended with %d", id, e.Code)
		}
		if got := w.entries(id + ".log"); len(got) != 1 || got[0] != fmt.Sprint("stdout F ", i) {
			t.Errorf("%s logged %q", id, got)
		}
	}
	w.exits.mu.Lock()
	if n := len(w.exits.all); n != many {
		t.Errorf("%d exits told", n)
	}
	w.exits.mu.Unlock()
}

func TestALaunchThatDescriptorsMayNotSufficeForIsRefused(t *testing.T) {
	w := start(t, keeper.Options{MaxDescriptors: 384 + 2*12})
	w.sh("a", "exit 0")
	w.sh("b", "exit 0")
	l := w.request("c", w.program([]string{"/bin/true"}))
	_, err := w.Launch(t.Context(), l)
	if !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), "408 descriptors") || !strings.Contains(err.Error(), "2 processes") {
		t.Fatalf("error %v", err)
	}
	w.exits.of("a")
	if err := w.Forget(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	w.run(l)
}

// What a process holds is bounded by what the refusal counts with.
func TestAProcessHoldsNoMoreThanItsShare(t *testing.T) {
	w := start(t, keeper.Options{})
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	counter, err := linux.Open("/dev/null", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer counter.Close()
	program := w.program([]string{"/bin/sh", "-c", "exec sleep 1000"})
	l := w.request("p", program, w.logged, func(l *wire.Launch) {
		l.Kind, l.Stdin = wire.Pause, wire.FIFO // more than any real one has
		l.FDs = append(l.FDs, wire.PassedFD{Role: wire.OOM, FD: counter})
	})
	before := count()
	w.run(l)
	if held := count() - before - 1; held > 12 { // the launched pidfd is this test's
		t.Errorf("%d descriptors are held", held)
	}
}

func TestProcessesAreBornClean(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "grep -E '^(SigBlk|SigIgn|SigCgt|Umask)' /proc/self/status; ls /proc/self/fd; ps -o sid= -p $$ >/dev/null; env", w.logged)
	w.exits.of("p")
	got := w.entries("p.log")
	for _, want := range []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"} {
		if !strings.Contains(fmt.Sprint(got), want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}
