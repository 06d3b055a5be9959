package cgroup_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/cgroup"
	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

func limitPids(t *testing.T, g *cgroup.Group, n int64) {
	t.Helper()
	if err := g.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(n)}}); err != nil {
		t.Fatal(err)
	}
}

// file reads a file of a group on the machine, by its controller and the version that drives it there.
func file(t *testing.T, tree *cgroup.Tree, g *cgroup.Group, controller, v1, v2 string) string {
	t.Helper()
	root, name := "/sys/fs/cgroup/"+controller, v1
	if tree.Mode() == cgroup.V2 {
		root, name = "/sys/fs/cgroup", v2
	}
	b, err := os.ReadFile(filepath.Join(root, g.Path(), name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestLimitsReachTheKernel(t *testing.T) {
	tree := machine(t)
	needs(t, tree, "cpu", "memory", "pids", "cpuset")
	g := group(t, tree)
	full := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: ptr[uint64](512), Quota: ptr[int64](50000), Period: ptr[uint64](100000), Cpus: "0"},
		Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](64 << 20)},
		Pids:   &specs.LinuxPids{Limit: ptr[int64](77)},
		// As the kubelet does, for sizes the machine may lack and a controller that may be missing.
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}, {Pagesize: "1GB"}, {Pagesize: "16MB"}},
	}
	if err := g.Apply(full); err != nil {
		t.Fatal(err)
	}
	v2 := tree.Mode() == cgroup.V2
	expect := func(controller, v1, v2name, wantV1, wantV2 string) {
		t.Helper()
		want := wantV1
		if v2 {
			want = wantV2
		}
		if got := file(t, tree, g, controller, v1, v2name); got != want {
			t.Errorf("%s or %s: %q, want %q", v1, v2name, got, want)
		}
	}
	expect("cpu", "cpu.shares", "cpu.weight", "512", "59")
	expect("cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000")
	expect("memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864")
	expect("pids", "pids.max", "pids.max", "77", "77")
	expect("cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0")

	// What is left out stays.
	if err := g.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr[uint64](50000)}}); err != nil {
		t.Fatal(err)
	}
	expect("cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 50000")
	expect("cpu", "cpu.shares", "cpu.weight", "512", "59")
	if err := g.Apply(nil); err != nil {
		t.Error(err)
	}
	if err := g.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](-1)}}); err != nil {
		t.Fatal(err)
	}
	expect("cpu", "cpu.cfs_quota_us", "cpu.max", "-1", "max 50000")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.CPU.Quota != -1 || s.CPU.Period != 50000 || s.Memory.Limit != 64<<20 || s.Pids.Limit != 77 || s.CPU.Shares < 500 || s.CPU.Shares > 512 {
		t.Errorf("read back as %+v", s)
	}
}

// UCR-4: on v1, memory may never be above memory with swap, whichever way both go.
func TestMemoryRisesAndFalls(t *testing.T) {
	tree := machine(t)
	needs(t, tree, "memory")
	g := group(t, tree)
	for _, step := range [][2]int64{{64, 64}, {128, 128}, {32, 32}, {32, 96}, {96, 96}, {128, 256}, {16, 20}, {-1, -1}, {64, 64}, {-1, 0}, {100, 100}} {
		limit, both := step[0], step[1]
		if limit > 0 {
			limit <<= 20
		}
		if both > 0 {
			both <<= 20
		}
		if err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &both}}); err != nil {
			t.Fatalf("to %v: %v", step, err)
		}
		s, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(max(limit, 0)); s.Memory.Limit != want {
			t.Errorf("to %v: limit %d", step, s.Memory.Limit)
		}
		if s.Swap.Accounted && both > 0 && (s.Swap.Limit == nil || *s.Swap.Limit != uint64(both-limit)) {
			t.Errorf("to %v: swap %+v", step, s.Swap)
		}
	}
}

func TestLimitsTheKernelRefuses(t *testing.T) {
	tree := machine(t)
	needs(t, tree, "cpuset", "memory", "cpu")
	g := group(t, tree)
	for name, r := range map[string]*specs.LinuxResources{
		"a processor nobody has":     {CPU: &specs.LinuxCPU{Cpus: "100000"}},
		"a list that is none":        {CPU: &specs.LinuxCPU{Cpus: "zero"}},
		"a quota below the smallest": {CPU: &specs.LinuxCPU{Quota: ptr[int64](1)}},
		"a period over the longest":  {CPU: &specs.LinuxCPU{Period: ptr[uint64](1 << 40)}},
	} {
		err := g.Apply(r)
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		} else if !strings.Contains(err.Error(), g.Path()) {
			t.Errorf("%s: %v does not name the group", name, err)
		}
	}
	if err := g.Apply(&specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"none0": {HcaHandles: ptr[uint32](1)}}}); !errs.Is(err, errs.Unimplemented) &&
		!errs.Is(err, errs.FailedPrecondition) && !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a controller that is missing or a device: %v", err)
	}
	if err := tree.Group(g.Path() + "/none").Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](5)}}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a group that is not there: %v", err)
	}
	e := must(g.Execs())(t)
	if err := e.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](5)}}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("limits for execs: %v", err)
	}
}

func TestALimitBelowWhatIsUsed(t *testing.T) {
	tree := machine(t)
	needs(t, tree, "memory")
	g := group(t, tree)
	cmd := start(t, g, "eat", "30")
	eat(t, cmd)
	err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](10 << 20), CheckBeforeUpdate: ptr(true)}})
	if !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("with checkBeforeUpdate: %v", err)
	}
	s := must(g.Stats())(t)
	if s.Memory.Limit != 0 || s.Memory.RSS < 30<<20 || s.Memory.Usage < s.Memory.RSS || s.Memory.WorkingSet > s.Memory.Usage || s.Memory.PageFaults < 15 { // huge pages, at worst
		t.Errorf("%+v", s.Memory)
	}
}

func TestMemoryBeyondTheLimitKills(t *testing.T) {
	tree := machine(t)
	needs(t, tree, "memory")
	g := group(t, tree)
	if err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](30 << 20), Swap: ptr[int64](30 << 20)}}); err != nil {
		t.Fatal(err)
	}
	if err := g.KillTogether(true); err != nil {
		t.Fatal(err)
	}
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Fatalf("before: %d, %v", n, err)
	}
	cmd := start(t, g, "eat", "100")
	feed[cmd].Write([]byte{1})
	err := cmd.Wait()
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("ended by %v, want SIGKILL", err)
	}
	if n, err := g.OOMKills(); n == 0 || err != nil {
		t.Errorf("after: %d, %v", n, err)
	}
	if s := must(g.Stats())(t); s.Memory.OOMKills == 0 {
		t.Errorf("%+v", s.Memory)
	}
	f := must(g.OOM())(t)
	defer f.Close()
	if b, err := f.ReadAll(4096); err != nil || !strings.Contains(string(b), "oom_kill ") {
		t.Errorf("%q, %v", b, err)
	}
}

func TestFiguresGrow(t *testing.T) { onTrees(t, figuresGrow) }

func figuresGrow(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	before := must(g.Stats())(t)
	cmd := start(t, g, "spin")
	waitForCPU(t, cmd.Process.Pid, 10)
	s := must(g.Stats())(t)
	if s.CPU.Usage < before.CPU.Usage+50e6 || s.CPU.User == 0 || s.CPU.User > 2*s.CPU.Usage || !s.Time.After(before.Time) {
		t.Errorf("CPU %+v after %+v", s.CPU, before.CPU)
	}
	if slices.Contains(tree.Controllers(), "pids") && s.Pids.Current == 0 {
		t.Errorf("pids %+v", s.Pids)
	}
	if s.Memory.Available != nil {
		t.Errorf("no limit, but %d are left of it", *s.Memory.Available)
	}
}

func TestDevicesOnThisMachine(t *testing.T) { onTrees(t, devicesOnThisMachine) }

// The child opens devices; which it may is in its answer. On a hybrid machine's cgroup2 alone, it is the program that decides.
func devicesOnThisMachine(t *testing.T, tree *cgroup.Tree) {
	g := group(t, tree)
	cmd := start(t, g, "open")
	tries := func() string {
		feed[cmd].Write([]byte{1})
		answer := make([]byte, 4)
		if _, err := answers[cmd].Read(answer); err != nil {
			t.Fatal(err)
		}
		return string(answer)
	}
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
	}
	denyAll, zero := rule(false, "a", -1, -1, "rwm"), rule(true, "c", 1, 5, "rwm")
	for _, step := range []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		want  string // null for reading, null for writing, null for both, zero for reading
	}{
		{"at first all", nil, "yyyy"},
		{"one is allowed", []specs.LinuxDeviceCgroup{denyAll, zero}, "nnny"},
		{"no rules change nothing", nil, "nnny"},
		{"another for reading", []specs.LinuxDeviceCgroup{denyAll, zero, rule(true, "c", 1, 3, "r")}, "ynny"},
		{"both by their major number", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, -1, "rw")}, "yyyy"},
		{"none", []specs.LinuxDeviceCgroup{denyAll}, "nnnn"},
		{"all", []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm")}, "yyyy"},
		{"all but writing one", []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm"), rule(false, "c", 1, 3, "w")}, "ynny"},
		{"one again", []specs.LinuxDeviceCgroup{denyAll, zero}, "nnny"},
	} {
		if err := g.Apply(&specs.LinuxResources{Devices: step.rules}); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := tries(); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
	if err := g.Apply(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{rule(true, "x", 1, 1, "r")}}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("an unknown type: %v", err)
	}
}

func TestOpeningWhatIsNoTree(t *testing.T) {
	if _, err := cgroup.OpenAt(t.TempDir()); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := cgroup.OpenAt("/nonexistent"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("none: %v", err)
	}
}
