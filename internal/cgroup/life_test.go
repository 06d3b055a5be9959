package cgroup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
)

// memberships reads where a process is: hierarchy ID and controllers → path.
func memberships(t *testing.T, pid int) map[string]string {
	t.Helper()
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		m[f[1]] = f[2]
	}
	return m
}

// joined reports whether a process in the tree has a place of its own in the hierarchy with these controllers.
func joined(tree *cgroup.Tree, controllers string) bool {
	return tree.Mode() == cgroup.Hybrid || (tree.Mode() == cgroup.V2) == (controllers == "")
}

func TestAProcessIsBornInTheGroupAndDiesWithIt(t *testing.T) {
	onTrees(t, aProcessIsBornInTheGroupAndDiesWithIt)
}

func aProcessIsBornInTheGroupAndDiesWithIt(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	cmd := start(t, g, "fork")
	pids, err := g.Processes()
	if err != nil || len(pids) != 2 || !slices.Contains(pids, cmd.Process.Pid) {
		t.Fatalf("processes %v (%v), want %d and its child", pids, err, cmd.Process.Pid)
	}
	for controllers, at := range memberships(t, cmd.Process.Pid) {
		if joined(tree, controllers) && at != g.Path() {
			t.Errorf("%q: in %s", controllers, at)
		}
	}
	if err := g.Kill(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("after Kill: %v, %v", pids, err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Error(err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Errorf("remove what is gone: %v", err)
	}
}

func TestAForkBombIsKilled(t *testing.T) { onTrees(t, aForkBombIsKilled) }

func aForkBombIsKilled(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	if slices.Contains(tree.Controllers(), "pids") { // for the machine's sake
		limitPids(t, g, 50)
	}
	start(t, g, "bomb")
	if err := g.Kill(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("after Kill: %v, %v", pids, err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotThere(t *testing.T) { onTrees(t, whatIsNotThere) }

func whatIsNotThere(t *testing.T, tree *cgroup.Tree) {
	g := tree.Group(path.Dir(path.Dir(group(t, tree).Path())) + "/none")
	ctx := deadline(t)
	for name, err := range map[string]error{"kill": g.Kill(ctx), "thaw": g.Thaw(ctx), "remove": g.Remove(ctx)} {
		if err != nil {
			t.Errorf("%s: %v, want success", name, err)
		}
	}
	if pids, err := g.Processes(); len(pids) != 0 || err != nil {
		t.Errorf("processes: %v, %v", pids, err)
	}
	_, join := g.Join()
	_, stats := g.Stats()
	_, execs := g.Execs()
	for name, err := range map[string]error{"join": join, "stats": stats, "execs": execs, "freeze": g.Freeze(ctx)} {
		if !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
}

func TestPathsThatAreNoGroups(t *testing.T) { onTrees(t, pathsThatAreNoGroups) }

func pathsThatAreNoGroups(t *testing.T, tree *cgroup.Tree) {
	for _, p := range []string{"", "/", "a", "//", "/a/../b", "/..", "/a//b", "/a/.", "/a\x00b", "/a\nb", "../a"} {
		if _, err := tree.Create(p); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("create %q: %v", p, err)
		}
		if err := tree.Group(p).Remove(t.Context()); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("remove %q: %v", p, err)
		}
	}
}

func TestExecsAreKilledApart(t *testing.T) { onTrees(t, execsAreKilledApart) }

func execsAreKilledApart(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	first := start(t, g, "sleep")
	e, err := g.Execs()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := g.Execs(); err != nil || again.Path() != e.Path() {
		t.Errorf("a second time: %v, %v", again, err)
	}
	exec := start(t, e, "fork")
	all, err := g.Processes()
	if err != nil || len(all) != 3 {
		t.Errorf("container's processes %v (%v), want three", all, err)
	}
	theirs, err := e.Processes()
	if err != nil || len(theirs) != 2 || !slices.Contains(theirs, exec.Process.Pid) {
		t.Errorf("execs' processes %v (%v), want %d and its child", theirs, err, exec.Process.Pid)
	}
	for controllers, at := range memberships(t, exec.Process.Pid) {
		want := g.Path()
		if controllers == "" || controllers == "freezer" {
			want = e.Path()
		}
		if joined(tree, controllers) && at != want {
			t.Errorf("%q: in %s, want %s", controllers, at, want)
		}
	}
	if err := e.Kill(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if left, err := g.Processes(); err != nil || !slices.Equal(left, []int{first.Process.Pid}) {
		t.Errorf("left: %v (%v), want the container's own, %d", left, err, first.Process.Pid)
	}
	start(t, e, "sleep") // and one more
	if err := g.Kill(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if left, err := g.Processes(); err != nil || len(left) != 0 {
		t.Errorf("left after all were killed: %v, %v", left, err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Error(err)
	}
	if _, err := e.Join(); !errs.Is(err, errs.NotFound) {
		t.Errorf("exec's group is there still: %v", err)
	}
}

// cputime is the time a process has run, in ticks.
func cputime(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}

// waitForCPU waits until a process has run for that many ticks.
func waitForCPU(t *testing.T, pid, ticks int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); cputime(t, pid) < ticks; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("process %d has run for %d ticks, want %d", pid, cputime(t, pid), ticks)
		}
	}
}

func TestFrozenProcessesStandStill(t *testing.T) { onTrees(t, frozenProcessesStandStill) }

func frozenProcessesStandStill(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	cmd := start(t, g, "spin")
	ctx := deadline(t)
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	before := cputime(t, cmd.Process.Pid)
	beside := must(tree.Create(path.Dir(g.Path()) + "/beside"))(t)
	other := start(t, beside, "spin") // as long as another process takes for some work, it does none
	waitForCPU(t, other.Process.Pid, 5)
	if after := cputime(t, cmd.Process.Pid); after != before {
		t.Errorf("ran while frozen: %d, then %d ticks", before, after)
	}
	if err := g.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	waitForCPU(t, cmd.Process.Pid, before+2)
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(ctx); err != nil {
		t.Fatalf("kill a frozen group: %v", err)
	}
}

func TestAGroupThatLivesIsNotRemoved(t *testing.T) { onTrees(t, aGroupThatLivesIsNotRemoved) }

func aGroupThatLivesIsNotRemoved(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	cmd := start(t, g, "sleep")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := g.Remove(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("remove: %v, want the context's end", err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process: %v", err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) != 1 {
		t.Errorf("processes: %v, %v", pids, err)
	}
}

func TestRemovalWaitsForTheDying(t *testing.T) { onTrees(t, removalWaitsForTheDying) }

func removalWaitsForTheDying(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	cmd := start(t, g, "fork")
	removed := make(chan error, 1)
	ctx := deadline(t)
	go func() { removed <- g.Remove(ctx) }()
	for _, pid := range append(must(g.Processes())(t), cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestACallerThatGivesUp(t *testing.T) { onTrees(t, aCallerThatGivesUp) }

func aCallerThatGivesUp(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	start(t, g, "sleep")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Freeze(ctx); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("freeze: %v", err)
	}
	if err := g.Kill(ctx); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("kill: %v", err)
	}
}

func TestCreatingTwiceAndBelow(t *testing.T) { onTrees(t, creatingTwiceAndBelow) }

func creatingTwiceAndBelow(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	if _, err := tree.Create(g.Path()); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Fatal(err)
	}
	again, err := tree.Create(g.Path() + "/")
	if err != nil || again.Path() != g.Path() {
		t.Errorf("after removal, with a slash at the end: %v, %v", again, err)
	}
}

func TestModes(t *testing.T) {
	for mode, want := range map[cgroup.Mode]string{cgroup.V1: "v1", cgroup.V2: "v2", cgroup.Hybrid: "hybrid", 9: "mode 9"} {
		if got := mode.String(); got != want {
			t.Errorf("%d is %q, want %q", mode, got, want)
		}
	}
}
