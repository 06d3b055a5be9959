package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fake makes a directory tree that looks like control groups, from "path: contents" lines.
func fake(t *testing.T, files string) string {
	t.Helper()
	root := t.TempDir()
	for line := range strings.Lines(files) {
		name, contents, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if name = strings.TrimSuffix(name, ":"); name == "" {
			continue
		}
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if !ok {
			contents = ""
		}
		if err := os.WriteFile(p, []byte(strings.ReplaceAll(contents, "|", "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func openFake(t *testing.T, files string) (*Tree, string) {
	t.Helper()
	root := fake(t, files)
	tree, err := OpenAt(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree, root
}

func TestModesAreTold(t *testing.T) {
	for _, c := range []struct {
		name, files          string
		mode                 Mode
		controllers, missing string
	}{
		{"v2", "cgroup.controllers: cpuset cpu io memory hugetlb pids rdma", V2, "cpu cpuset hugetlb io memory pids rdma", ""},
		{"v2 without the cpu controller", "cgroup.controllers: cpuset io memory pids", V2, "cpuset io memory pids", "cpu"},
		{"v1", "cpu,cpuacct/tasks:\nmemory/tasks:\ndevices/tasks:\nfreezer/tasks:\npids/tasks:\nsystemd/tasks:", V1,
			"cpu cpuacct devices freezer memory pids", "cpuset"},
		{"hybrid, systemd's", "cpu,cpuacct/tasks:\nmemory/tasks:\nunified/cgroup.controllers:", Hybrid, "cpu cpuacct memory", "cpuset devices freezer pids"},
		{"hybrid, with a controller on v2", "memory/tasks:\nunified/cgroup.controllers: hugetlb", Hybrid, "hugetlb memory", "cpu cpuacct cpuset devices freezer pids"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, _ := openFake(t, c.files)
			if tree.Mode() != c.mode || strings.Join(tree.Controllers(), " ") != c.controllers || strings.Join(tree.Missing(), " ") != c.missing {
				t.Errorf("%v %v, missing %v", tree.Mode(), tree.Controllers(), tree.Missing())
			}
		})
	}
}

const mountinfo = `22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
29 22 0:25 / /sys/fs/cgroup ro,nosuid shared:4 - tmpfs tmpfs ro,mode=755
30 29 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw,nsdelegate
31 29 0:27 / /sys/fs/cgroup/systemd rw shared:6 master:2 - cgroup cgroup rw,xattr,name=systemd
33 29 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 29 0:30 / /mnt/odd\040place rw - cgroup cgroup rw,memory
35 29 0:31 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct
36 29 0:32 / /mnt/debug rw - cgroup cgroup rw,debug
short
37 29 0:33 / /x rw - cgroup
`

func TestMountsAreFound(t *testing.T) {
	var got []string
	for _, m := range parseMounts(mountinfo) {
		got = append(got, m.version.String()+" "+m.path+" "+strings.Join(m.controllers, ","))
	}
	want := []string{"v2 /sys/fs/cgroup/unified ", "v1 /sys/fs/cgroup/systemd name=systemd", "v1 /sys/fs/cgroup/cpu,cpuacct cpu,cpuacct",
		"v1 /mnt/odd place memory", "v1 /mnt/again cpu,cpuacct"}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}
}

func FuzzMounts(f *testing.F) {
	f.Add(mountinfo)
	f.Add("1 2 3 4 \\1 6 - cgroup a rw,cpu\n1 2 3 4 \\400\\777\\ 6 - cgroup2 a b")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range parseMounts(text) {
			if m.version != V1 && m.version != V2 || m.version == V1 && len(m.controllers) == 0 {
				t.Errorf("%+v", m)
			}
		}
	})
}

func TestOpeningChecksTheFileSystem(t *testing.T) {
	if tree, err := open([]mount{{path: t.TempDir(), version: V1, controllers: []string{"cpu"}}}, true); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a plain directory for cgroupfs: %v, %v", tree, err)
	}
}

func TestAHierarchyMountedTwiceIsOne(t *testing.T) {
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	tree, err := open([]mount{{path: a, version: V1, controllers: []string{"cpu"}}, {path: b, version: V1, controllers: []string{"cpu"}},
		{path: c, version: V1, controllers: []string{"memory"}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if len(tree.hierarchies) != 2 || tree.with("cpu").root.Name() != a {
		t.Errorf("%v", tree.hierarchies)
	}
}

// On a fake v2 tree the "kernel" does nothing, so the files that creating a group reads are there before.
func TestCreatingHandsControllersDown(t *testing.T) {
	tree, root := openFake(t, `cgroup.controllers: cpuset cpu io memory hugetlb pids rdma misc
cgroup.subtree_control: cpu pids
kube/cgroup.subtree_control:
kube/pod/cgroup.subtree_control: cpu
kube/pod/c/cgroup.controllers: cpu
kube/pod/d/cgroup.controllers: pids hugetlb memory io cpu cpuset`)
	if _, err := tree.Create("/kube/pod/c"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"": "+cpuset +io +memory +hugetlb", "kube": "+cpu +cpuset +io +memory +pids +hugetlb", "kube/pod": "+cpuset +io +memory +pids +hugetlb",
	} {
		b, err := os.ReadFile(filepath.Join(root, file, "cgroup.subtree_control"))
		// Regular files keep what a shorter write does not cover.
		if err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("%s: %q (%v), want %q", file, b, err, want)
		}
	}
	os.WriteFile(filepath.Join(root, "kube/cgroup.subtree_control"), []byte("untouched\n"), 0o644)
	if _, err := tree.Create("/kube/pod/d"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "kube/cgroup.subtree_control")); string(b) != "untouched\n" {
		t.Errorf("where all are there already, %q is written", b)
	}
}

func TestAnEmptyCpusetTakesItsParents(t *testing.T) {
	tree, root := openFake(t, `cpuset/cpuset.cpus: 0-3
cpuset/cpuset.mems: 0
cpuset/a/cpuset.cpus:
cpuset/a/cpuset.mems:
cpuset/a/b/cpuset.cpus:
cpuset/a/b/cpuset.mems: 1`)
	if _, err := tree.Create("/a/b"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"a/cpuset.cpus": "0-3", "a/b/cpuset.cpus": "0-3", "a/b/cpuset.mems": "1"} {
		if b, err := os.ReadFile(filepath.Join(root, "cpuset", file)); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %q, %v, want %q", file, b, err, want)
		}
	}
}

func TestAGroupThatCannotBeMadeEverywhereIsMadeNowhere(t *testing.T) {
	tree, root := openFake(t, "cpu/tasks:\nmemory/c: a file\npids/tasks:")
	if g, err := tree.Create("/c/d"); err == nil {
		t.Fatalf("made %v", g.Path())
	}
	for _, controller := range []string{"cpu", "pids"} {
		if _, err := os.Stat(filepath.Join(root, controller, "c/d")); err == nil {
			t.Errorf("left in %s", controller)
		}
	}
}

// Golden writes: what a container's resources leave in the files of a v2 group.
func TestApplyingOnV2(t *testing.T) {
	tree, root := openFake(t, `cgroup.controllers: cpuset cpu memory pids
c/cgroup.procs:
c/cpu.max: 70000 100000
c/cpu.weight:
c/cpuset.cpus:
c/memory.max:
c/memory.swap.max:
c/memory.oom.group:
c/memory.high:
c/memory.current: 5000
c/pids.max:`)
	g := tree.Group("/c")
	err := g.Apply(&specs.LinuxResources{
		CPU: &specs.LinuxCPU{Shares: ptr[uint64](2048), Period: ptr[uint64](50000), Cpus: "0-1"}, Pids: &specs.LinuxPids{Limit: ptr[int64](-1)},
		Memory:         &specs.LinuxMemory{Limit: ptr[int64](1 << 30), Swap: ptr[int64](3 << 30)},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}, {Pagesize: "1GB", Limit: 1 << 30}}, // no controller: tolerated
		Unified:        map[string]string{"memory.high": "900000000", "memory.oom.group": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpu.weight": "174", "cpu.max": "70000 50000", "cpuset.cpus": "0-1", "pids.max": "max",
		"memory.max": "1073741824", "memory.swap.max": "2147483648", "memory.high": "900000000", "memory.oom.group": "1"} {
		if b, err := os.ReadFile(filepath.Join(root, "c", file)); err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("%s: %q, %v, want %q", file, b, err, want)
		}
	}
	if err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](4000), CheckBeforeUpdate: ptr(true)}}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("below what is used: %v", err)
	}
	if err := g.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: ptr[uint64](1)}}); !errs.Is(err, errs.Unimplemented) && !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a file this kernel lacks: %v", err)
	}
	if err := g.Apply(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](5)}}); !errs.Is(err, errs.Unimplemented) {
		t.Errorf("a controller this machine lacks: %v", err)
	}
}

func TestAControllerThatAParentKeeps(t *testing.T) {
	tree, _ := openFake(t, "cgroup.controllers: cpu memory\nc/cgroup.procs:\nc/cgroup.controllers: cpu")
	err := tree.Group("/c").Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](5 << 20)}})
	if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("%v", err)
	}
}

func TestFiguresOfV2(t *testing.T) {
	tree, _ := openFake(t, `cgroup.controllers: cpuset cpu io memory pids
c/cgroup.procs:
c/cpu.stat: usage_usec 1500|user_usec 1000|system_usec 500|nr_periods 10|nr_throttled 3|throttled_usec 70
c/cpu.weight: 100
c/cpu.max: 50000 100000
c/cpu.pressure: some avg10=1.50 avg60=0.25 avg300=0.00 total=12|full avg10=0.00 avg60=0.00 avg300=0.00 total=3
c/memory.current: 5000
c/memory.peak: 9000
c/memory.max: 6000
c/memory.low: 0
c/memory.events: low 0|high 0|max 7|oom 1|oom_kill 2|oom_group_kill 0
c/memory.stat: anon 1000|file 2000|kernel 300|file_mapped 40|active_file 450|inactive_file 1500|pgfault 11|pgmajfault 2
c/memory.swap.current: 77
c/memory.swap.max: 100
c/pids.current: 4
c/pids.max: max
c/io.stat: 8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6|8:16 |253:1 rbytes=9
c/io.pressure: some avg10=0.00 avg60=0.00 avg300=0.00 total=5`)
	g := tree.Group("/c")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	usageIsOf(t, g, s)
	if want := (CPU{Usage: 1500000, User: 1000000, System: 500000, Shares: s.CPU.Shares, Quota: 50000, Period: 100000, Periods: 10, Throttled: 3,
		ThrottledTime: 70000, Pressure: s.CPU.Pressure}); s.CPU != want || WeightOf(s.CPU.Shares) != 100 {
		t.Errorf("%+v, want %+v", s.CPU, want)
	}
	if want := (Pressure{Some: PressureLine{1.5, 0.25, 0, 12000}, Full: PressureLine{Total: 3000}}); *s.CPU.Pressure != want {
		t.Errorf("%+v, want %+v", s.CPU.Pressure, want)
	}
	if want := (Memory{Usage: 5000, WorkingSet: 3500, RSS: 1000, Cache: 2000, Mapped: 40, Kernel: 300, ActiveFile: 450, InactiveFile: 1500, MaxUsage: 9000, Limit: 6000,
		Available: s.Memory.Available, PageFaults: 11, MajorPageFaults: 2, LimitHits: 7, OOMKills: 2}); s.Memory != want || *s.Memory.Available != 2500 {
		t.Errorf("%+v, want %+v", s.Memory, want)
	}
	if !s.Swap.Accounted || s.Swap.Usage != 77 || *s.Swap.Limit != 100 || s.Pids != (Pids{Current: 4}) || s.IOPressure.Some.Total != 5000 {
		t.Errorf("%+v %+v %+v", s.Swap, s.Pids, s.IOPressure)
	}
	if want := []IO{{8, 0, 1, 2, 3, 4}, {253, 1, 9, 0, 0, 0}}; !slices.Equal(s.IO, want) {
		t.Errorf("%+v, want %+v", s.IO, want)
	}
}

// usageIsOf checks that a meter reads the same figures as Stats, as far as it reads them, when it opens the files and from the open ones.
func usageIsOf(t *testing.T, g *Group, s Stats) {
	t.Helper()
	m, all := g.Meter(), s.Memory
	defer m.Close()
	want := Stats{
		CPU: CPU{Usage: s.CPU.Usage, Pressure: s.CPU.Pressure},
		Memory: Memory{
			Usage: all.Usage, WorkingSet: all.WorkingSet, RSS: all.RSS, Limit: all.Limit, Available: all.Available, PageFaults: all.PageFaults,
			MajorPageFaults: all.MajorPageFaults, Pressure: all.Pressure,
		},
		Swap: s.Swap, Pids: Pids{Current: s.Pids.Current}, IOPressure: s.IOPressure,
	}
	for _, when := range []string{"first", "again"} {
		got, err := m.Usage()
		if err != nil {
			t.Fatal(err)
		}
		got.Time = time.Time{}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: a meter reads %+v, want %+v", when, got, want)
		}
	}
}

func TestFiguresOfV1(t *testing.T) {
	tree, _ := openFake(t, `memory/c/cgroup.procs:
memory/c/memory.usage_in_bytes: 5000
memory/c/memory.limit_in_bytes: 9223372036854771712
memory/c/memory.memsw.limit_in_bytes: 9223372036854771712
memory/c/memory.oom_control: oom_kill_disable 0|under_oom 0|oom_kill 3
memory/c/memory.stat: cache 1|rss 2|inactive_file 3|total_cache 100|total_rss 200|total_mapped_file 10|total_swap 0|total_pgfault 5|total_pgmajfault 6|total_active_file 60|total_inactive_file 7000
blkio/c/cgroup.procs:
blkio/c/blkio.throttle.io_service_bytes_recursive: 8:0 Read 10|8:0 Write 20|8:0 Sync 30|8:0 Total 30|Total 30
blkio/c/blkio.throttle.io_serviced_recursive: 8:0 Read 1|8:0 Write 2`)
	g := tree.Group("/c")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	usageIsOf(t, g, s)
	if want := (Memory{Usage: 5000, WorkingSet: 0, RSS: 200, Cache: 100, Mapped: 10, ActiveFile: 60, InactiveFile: 7000, PageFaults: 5, MajorPageFaults: 6, OOMKills: 3}); s.Memory != want {
		t.Errorf("%+v, want %+v", s.Memory, want)
	}
	if !s.Swap.Accounted || s.Swap.Limit != nil {
		t.Errorf("%+v", s.Swap)
	}
	if want := []IO{{8, 0, 10, 20, 1, 2}}; !slices.Equal(s.IO, want) {
		t.Errorf("%+v, want %+v", s.IO, want)
	}
	if n, err := g.OOMKills(); n != 3 || err != nil {
		t.Errorf("OOM kills: %d, %v", n, err)
	}
	if _, err := tree.Group("/none").Stats(); !errs.Is(err, errs.NotFound) {
		t.Errorf("a group that is not there: %v", err)
	}
}

// A symbolic link or a mount among control groups is nobody's but an attacker's.
func TestLinksAreNotFollowed(t *testing.T) {
	tree, root := openFake(t, "pids/c/cgroup.procs:\npids/c/real: x")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("max"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(root, "pids/c/pids.max")); err != nil {
		t.Fatal(err)
	}
	if err := tree.Group("/c").Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](5)}}); err == nil {
		t.Error("written through a link")
	}
	if b, _ := os.ReadFile(secret); string(b) != "max" {
		t.Errorf("the secret is now %q", b)
	}
}

func TestSwapIsTold(t *testing.T) {
	for _, c := range []struct {
		name, files string
		want        bool
	}{
		{"v1 with swap accounting", "memory/memory.memsw.limit_in_bytes: 1", true},
		{"v1 without", "memory/memory.limit_in_bytes: 1", false},
		{"no memory controller", "cpu/tasks:", false},
		{"v2 with", "cgroup.controllers: memory\na/memory.max: max\na/memory.swap.max: max", true},
		{"v2 without", "cgroup.controllers: memory\na/memory.max: max", false},
		{"v2 where nobody has the controller yet", "cgroup.controllers: memory\na/cgroup.procs:", true},
		{"v2 without groups", "cgroup.controllers: memory", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if tree, _ := openFake(t, c.files); tree.Swap() != c.want {
				t.Errorf("not %v", c.want)
			}
		})
	}
}

func TestPageSizesAreNamedAsTheKernelDoes(t *testing.T) {
	for kb, want := range map[uint64]string{64: "64KB", 2048: "2MB", 32768: "32MB", 1 << 20: "1GB", 16 << 20: "16GB"} {
		if got := sizeName(kb); got != want {
			t.Errorf("%d KiB: %s, want %s", kb, got, want)
		}
	}
}

func BenchmarkLife(b *testing.B) {
	tree, err := Open()
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	const parent = "/fermata-test-bench"
	if _, err := tree.Create(parent + "/warm"); err != nil {
		b.Fatal(err)
	}
	defer tree.Group(parent).Remove(b.Context())
	r := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: ptr[uint64](512), Quota: ptr[int64](50000), Period: ptr[uint64](100000)},
		Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](64 << 20)},
	}
	for _, step := range []struct {
		name string
		do   func(*Group) error
	}{
		{"create and remove", func(*Group) error { return nil }},
		{"and apply", func(g *Group) error { return g.Apply(r) }},
		{"and join", func(g *Group) error {
			j, err := g.Join()
			j.Close()
			return err
		}},
		{"and stats", func(g *Group) error { _, err := g.Stats(); return err }},
	} {
		b.Run(step.name, func(b *testing.B) {
			for b.Loop() {
				g, err := tree.Create(parent + "/c")
				if err == nil {
					err = step.do(g)
				}
				if err == nil {
					err = g.Remove(b.Context())
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
