package keeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/keeper"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

func exists(t *testing.T, path ...string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(path...))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestANewDaemonFindsEverything(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("heard", "exit 1")
	w.exits.of("heard")
	w.sh("unheard", "read x < "+w.dir+"/gate; echo logged; exit 2", w.gate, w.logged)
	w.sh("running", "exec sleep 1000")
	if err := w.Close(); err != nil { // the daemon dies
		t.Fatal(err)
	}
	if _, err := w.Processes(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a request without a connection: %v", err)
	}
	w.open("gate")
	w.eventually("the exit that nobody heard is kept where it outlives a reboot", func() bool { return exists(t, w.o.Root, "exits", "unheard") })

	w.exits = newExits(t)
	w.dial()
	for id, code := range map[string]int{"heard": 1, "unheard": 2} {
		if e := w.exits.of(id); e.Code != code {
			t.Errorf("%s ended with %+v", id, e)
		}
	}
	processes, err := w.Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, p := range processes {
		listed = append(listed, fmt.Sprint(p.ID, " ", p.Exit != nil))
	}
	if got := fmt.Sprint(listed); got != "[heard true running false unheard true]" {
		t.Errorf("listed %v", got)
	}
	if got := fmt.Sprint(w.entries("unheard.log")); got != "[stdout F logged]" {
		t.Errorf("log %v", got)
	}
	if exists(t, w.o.Root, "exits", "heard") || !exists(t, w.o.State, "exits", "heard") {
		t.Error("an exit that was heard belongs into the state directory alone")
	}
	for _, id := range []string{"heard", "unheard"} {
		if err := w.Forget(t.Context(), id); err != nil {
			t.Error(err)
		}
		if exists(t, w.o.Root, "exits", id) || exists(t, w.o.State, "exits", id) {
			t.Errorf("the exit of %s is forgotten and still recorded", id)
		}
	}
}

func TestALaunchOutlivesTheDaemonThatAskedForIt(t *testing.T) {
	w := start(t, keeper.Options{})
	w.gate(nil)
	gate, err := linux.Open(filepath.Join(w.dir, "gate"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	program := w.program([]string{"/bin/sleep", "1000"}, func(b *launch.Builder) {
		b.Do("wait", launch.Read, launch.FirstFD, b.SlotAddress(b.NewSlot()), 1)
	})
	l := w.request("p", program, func(l *wire.Launch) { l.FDs = append(l.FDs, wire.PassedFD{Role: wire.Child, FD: gate}) })
	result := make(chan error, 1)
	go func() { _, err := w.Launch(t.Context(), l); result <- err }()
	w.eventually("the launch is under way", func() bool { return w.Signal(t.Context(), "p", 0) == nil })
	if processes, err := w.Processes(t.Context()); err != nil || len(processes) != 0 {
		t.Errorf("listed before it is launched: %+v, %v", processes, err)
	}
	w.Close()
	if err := <-result; !errs.Is(err, errs.Unavailable) {
		t.Errorf("launch: %v", err)
	}
	w.dial()
	w.open("gate")
	w.eventually("it is launched", func() bool {
		processes, err := w.Processes(t.Context())
		return err == nil && len(processes) == 1 && processes[0].ID == "p"
	})
}

func TestTwoDaemonsHearTheSame(t *testing.T) {
	w := start(t, keeper.Options{})
	other := newExits(t)
	c, err := client.Dial(t.Context(), client.Options{Socket: w.o.Socket, OnExit: other.add})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	silent, err := client.Dial(t.Context(), client.Options{Socket: w.o.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	w.sh("p", "exit 4")
	if a, b := w.exits.of("p"), other.of("p"); a != b || a.Code != 4 {
		t.Errorf("one heard %+v, the other %+v", a, b)
	}
	if err := silent.Forget(t.Context(), "p"); err != nil {
		t.Error(err)
	}
}

func TestExitsOfAnExecAreNotRecorded(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("c/e1", "exit 6", func(l *wire.Launch) { l.Kind = wire.Exec }, w.logged, func(l *wire.Launch) { l.Log.Base = "e1.log" })
	if e := w.exits.of("c/e1"); e.Code != 6 || e.Kind != wire.Exec {
		t.Errorf("exit %+v", e)
	}
	if left, _ := os.ReadDir(filepath.Join(w.o.State, "exits")); len(left) != 0 {
		t.Errorf("recorded: %v", left)
	}
	if err := w.Forget(t.Context(), "c/e1"); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(w.o.State, "fifo")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRecordedExitsAreTakenOver(t *testing.T) {
	var mu sync.Mutex
	var warned []string
	w := begin(t, keeper.Options{Warn: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		warned = append(warned, err.Error())
	}})
	type record struct {
		ID   string `json:"id"`
		Code int    `json:"code"`
		Kind int    `json:"processKind"`
	}
	const many = 700 // several pages
	for i := range many {
		dir := filepath.Join(w.o.State, "exits")
		if i%2 == 1 {
			dir = filepath.Join(w.o.Root, "exits")
		}
		if err := durable.MakeDir(dir); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("p%04d", i)
		if err := durable.Write(filepath.Join(dir, id), "exit", record{id, i % 256, 2}, durable.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	broken := filepath.Join(w.o.State, "exits", "broken")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	misplaced := filepath.Join(w.o.State, "exits", "other")
	if err := durable.Write(misplaced, "exit", record{ID: "../../x"}, durable.Options{}); err != nil {
		t.Fatal(err)
	}
	w.serve()
	w.dial()
	processes, err := w.Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(processes) != many {
		t.Errorf("%d processes listed", len(processes))
	}
	for i, p := range processes {
		if p.ID != fmt.Sprintf("p%04d", i) || p.Exit == nil || p.Exit.Code != i%256 || p.Kind != wire.Container {
			t.Fatalf("process %d is %+v", i, p)
		}
	}
	w.exits.of("p0699")
	if said := strings.Join(warned, "\n"); len(warned) != 2 || !strings.Contains(said, "broken-") || !strings.Contains(said, misplaced) {
		t.Errorf("warnings %q", warned)
	}
	if exists(t, broken) || exists(t, misplaced) {
		t.Error("a broken record was not set aside")
	}
	w.end()
	if left, _ := filepath.Glob(filepath.Join(w.o.Root, "exits", "*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestASecondKeeperIsRefused(t *testing.T) {
	w := start(t, keeper.Options{})
	if s, err := keeper.New(w.o); err == nil || !strings.Contains(err.Error(), "only keeper") {
		t.Fatalf("second keeper %v, %v", s, err)
	}
	if _, err := w.Processes(t.Context()); err != nil {
		t.Errorf("the first one was disturbed: %v", err)
	}
}

// asProcess starts a keeper as a process of its own, twice at once.
func asProcess(t *testing.T) (*world, client.StartOptions) {
	t.Helper()
	w := begin(t, keeper.Options{})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := client.StartOptions{Binary: exe, Socket: w.o.Socket, State: w.o.State, Root: w.o.Root, LogFile: filepath.Join(w.dir, "log")}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := client.Start(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.dial()
	t.Cleanup(func() { w.end() })
	return w, o
}

func TestAKeeperOfItsOwn(t *testing.T) {
	w, o := asProcess(t)
	launched := w.sh("p", "grep -E '^(PPid|SigIgn|SigBlk)' /proc/self/status; umask; readlink /proc/self/cwd; exec sleep 1000", w.logged)
	w.eventually("all is logged", func() bool { return len(w.entries("p.log")) == 5 })
	got := fmt.Sprint(w.entries("p.log"))
	for _, want := range []string{"SigIgn:\t0000000000000000", "SigBlk:\t0000000000000000", "stdout F 0022", "stdout F /]"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", launched.PID))
	if err != nil {
		t.Fatal(err)
	}
	var parent int
	fields := strings.Fields(string(stat))
	fmt.Sscan(fields[3], &parent)
	if fields[5] != fmt.Sprint(launched.PID) {
		t.Errorf("session %v of process %d", fields[5], launched.PID)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE} {
		if err := syscall.Kill(parent, sig); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("it says that it stays", func() bool {
		b, _ := os.ReadFile(o.LogFile)
		return strings.Contains(string(b), "not ending: shut down keeper: it holds 1 process")
	})
	if _, err := w.Processes(t.Context()); err != nil {
		t.Fatalf("the keeper did not stay: %v", err)
	}
	if err := client.Start(t.Context(), o); err != nil { // finds it
		t.Error(err)
	}
}

func TestSIGTERMEndsAKeeperThatHoldsNothing(t *testing.T) {
	w, o := asProcess(t)
	w.sh("p", "echo $PPID", w.logged)
	w.exits.of("p")
	var pid int
	fmt.Sscan(strings.TrimPrefix(w.entries("p.log")[0], "stdout F "), &pid)
	if err := w.Forget(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	w.eventually("the socket is gone", func() bool { return !exists(t, o.Socket) })
	if err := client.Start(t.Context(), o); err != nil { // for the clean-up
		t.Fatal(err)
	}
}

func TestExitsOutliveAKilledKeeper(t *testing.T) {
	w, o := asProcess(t)
	w.sh("p", "echo $PPID; exit 8", w.logged)
	w.exits.of("p")
	var pid int
	fmt.Sscan(strings.TrimPrefix(w.entries("p.log")[0], "stdout F "), &pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	w.Close()
	if err := client.Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.exits = newExits(t)
	w.dial()
	if e := w.exits.of("p"); e.Code != 8 {
		t.Errorf("exit %+v", e)
	}
}

func TestAKeeperThatCannotStartSaysSo(t *testing.T) {
	w := begin(t, keeper.Options{})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := client.StartOptions{Binary: exe, Socket: w.o.Socket, State: w.o.State, Root: file, LogFile: filepath.Join(w.dir, "log")}
	if err := client.Start(t.Context(), o); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), o.LogFile) {
		t.Errorf("error %v", err)
	}
	if b, _ := os.ReadFile(o.LogFile); !strings.Contains(string(b), "not a directory") {
		t.Errorf("it said %q", b)
	}
	if _, err := client.Dial(t.Context(), client.Options{Socket: w.o.Socket}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("dial: %v", err)
	}
	o.Binary = file
	if err := client.Start(t.Context(), o); err == nil {
		t.Error("a file that is no program was started")
	}
}

// hierarchies are the mounted cgroup hierarchies that a process can be moved in.
func hierarchies(t *testing.T) []string {
	t.Helper()
	if exists(t, "/sys/fs/cgroup/cgroup.procs") {
		return []string{"/sys/fs/cgroup"}
	}
	found, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(found) == 0 {
		t.Fatalf("no cgroups: %v", err)
	}
	var dirs []string
	for _, f := range found {
		dirs = append(dirs, filepath.Dir(f))
	}
	return dirs
}

// cgroup names a group for this test alone and removes it afterwards.
func cgroup(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("/fermata-keeper-test-%d", os.Getpid())
	t.Cleanup(func() {
		for _, h := range hierarchies(t) {
			if err := os.Remove(h + name); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
	})
	return name
}

func TestAKeeperIsMovedToACgroupOfItsOwn(t *testing.T) {
	name := cgroup(t)
	w := begin(t, keeper.Options{})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := client.StartOptions{Binary: exe, Socket: w.o.Socket, State: w.o.State, Root: w.o.Root, Cgroup: name}
	if err := client.Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.dial()
	w.sh("p", "cat /proc/$PPID/cgroup; echo $PPID", w.logged)
	w.exits.of("p")
	got := w.entries("p.log")
	for _, line := range got[:len(got)-1] {
		if !strings.HasSuffix(line, ":"+name) && !strings.Contains(line, ":cpuset:") {
			t.Errorf("the keeper is in %q", line)
		}
	}
	var pid int
	fmt.Sscan(strings.TrimPrefix(got[len(got)-1], "stdout F "), &pid)
	w.end()
	w.eventually("the keeper has ended", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }) // its group can be removed
}

func TestAProcessIsBornInItsCgroup(t *testing.T) {
	name := cgroup(t)
	unified := "/sys/fs/cgroup"
	if !exists(t, unified, "cgroup.procs") {
		unified += "/unified"
	}
	if err := os.Mkdir(unified+name, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := linux.OpenDir(unified + name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w := start(t, keeper.Options{})
	w.sh("p", "grep ^0:: /proc/self/cgroup", w.logged, func(l *wire.Launch) {
		l.FDs = append(l.FDs, wire.PassedFD{Role: wire.Cgroup, FD: dir})
	})
	w.exits.of("p")
	if got := fmt.Sprint(w.entries("p.log")); got != "[stdout F 0::"+name+"]" {
		t.Errorf("log %v", got)
	}
}
