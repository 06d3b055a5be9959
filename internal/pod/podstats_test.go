package pod

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/spec"
	"fermata/internal/stats"
)

// Counters makes the fake a network that counts: each sandbox has received as many bytes as its ID has characters.
func (f *fakeNetwork) Counters() (map[string][]stats.Interface, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string][]stats.Interface{}
	for id := range f.leases {
		all[id] = []stats.Interface{{Name: "eth0", RxBytes: uint64(len(id)), TxBytes: 1}}
	}
	return all, nil
}

// CountersOf is of one of them.
func (f *fakeNetwork) CountersOf(id string) ([]stats.Interface, error) {
	all, err := f.Counters()
	return all[id], err
}

// inhabit puts a process of the test's own into a group, in every hierarchy.
func (n *node) inhabit(path string) {
	n.t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	j := must[*cgroup.Join](n.t)(n.Cgroups.Group(path).Join())
	defer j.Close()
	pid := []byte(strconv.Itoa(cmd.Process.Pid))
	for _, procs := range j.Procs {
		if err := procs.WriteOnce(pid); err != nil {
			n.t.Fatal(err)
		}
	}
	if j.Dir != nil {
		procs, err := j.Dir.OpenSameMount("cgroup.procs", os.O_WRONLY)
		if err != nil {
			n.t.Fatal(err)
		}
		defer procs.Close()
		if err := procs.WriteOnce(pid); err != nil {
			n.t.Fatal(err)
		}
	}
}

// start brings up the pod of a request with one running container.
func (n *node) start(req *runtimeapi.RunPodSandboxRequest) (*Pod, *Container) {
	n.t.Helper()
	ctx := n.t.Context()
	podID := must[string](n.t)(n.RunPodSandbox(ctx, req))
	containerID := must[string](n.t)(n.CreateContainer(ctx, containerRequest(podID, req, "c")))
	if err := n.StartContainer(ctx, containerID); err != nil {
		n.t.Fatal(err)
	}
	return must[*Pod](n.t)(n.findPod(podID)), must[*Container](n.t)(n.findContainer(containerID))
}

func TestAPodUsesWhatItsGroupsUse(t *testing.T) {
	for name, c := range map[string]struct {
		parent    string // below the test's; "" asks for none
		processes uint64 // of pause, container, and a stranger beside them
	}{
		"in the shared parent a stranger does not count":       {"", 2},
		"in a parent of a name that is not the pod's, neither": {"/mine", 2},
		"in the kubelet's group of the pod, all that is in it": {"/kubepods/poduid-a", 3},
		"also if it is named as systemd wants it":              {"/kubepods-besteffort-poduid_a.slice", 3},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			req := sandboxRequest("a")
			if c.parent != "" {
				req.Config.Linux.CgroupParent = n.CgroupParent + c.parent
			}
			p, container := n.start(req)
			parent := filepath.Dir(p.snapshot().Cgroup)
			must[*cgroup.Group](t)(n.Cgroups.Create(parent + "/stranger"))
			for _, group := range []string{p.snapshot().Cgroup, container.snapshot().Cgroup, parent + "/stranger"} {
				n.inhabit(group)
			}
			s := must[*runtimeapi.PodSandboxStats](t)(n.PodSandboxStats(p.id)).Linux
			if got := s.Process.ProcessCount.Value; got != c.processes {
				t.Errorf("%d processes, want %d", got, c.processes)
			}
			if s.Memory.UsageBytes == nil || s.Cpu.UsageCoreNanoSeconds == nil || s.Cpu.Timestamp == 0 || s.Cpu.UsageNanoCores != nil {
				t.Errorf("first look: cpu %v, memory %v", s.Cpu, s.Memory)
			}
			if len(s.Containers) != 1 || s.Containers[0].Attributes.Id != container.id || s.Containers[0].WritableLayer == nil {
				t.Errorf("containers %v", s.Containers)
			}
		})
	}
}

func TestNetworkFiguresOfAPod(t *testing.T) {
	n := newNode(t)
	p, _ := n.start(sandboxRequest("own"))
	s := must[*runtimeapi.PodSandboxStats](t)(n.PodSandboxStats(p.id))
	if d := s.Linux.Network.GetDefaultInterface(); d.GetName() != "eth0" || d.GetRxBytes().GetValue() != 64 || s.Linux.Network.Timestamp == 0 {
		t.Errorf("network %v", s.Linux.Network)
	}
	req := sandboxRequest("host")
	req.Config.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	onHost := must[string](t)(n.RunPodSandbox(t.Context(), req))
	if s := must[*runtimeapi.PodSandboxStats](t)(n.PodSandboxStats(onHost)); s.Linux.Network != nil {
		t.Errorf("a pod in the host's network has figures of its own: %v", s.Linux.Network)
	}
}

func TestPodStatsAreOfReadyPods(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	if _, err := n.PodSandboxStats("none"); !errs.Is(err, errs.NotFound) {
		t.Errorf("an unknown pod: %v, want NotFound", err)
	}
	labelled := sandboxRequest("labelled")
	labelled.Config.Labels = map[string]string{"app": "x"}
	a, _ := n.start(labelled)
	b, _ := n.start(sandboxRequest("b"))
	stopped, container := n.start(sandboxRequest("stopped"))
	must[*runtimeapi.PodSandboxStats](t)(n.PodSandboxStats(stopped.id))
	if err := n.StopPodSandbox(ctx, stopped.id); err != nil {
		t.Fatal(err)
	}
	if _, err := n.PodSandboxStats(stopped.id); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a stopped pod: %v, want Unavailable", err)
	}
	for key := range n.figures.meters {
		if key.group == stopped.snapshot().Cgroup || key.group == container.snapshot().Cgroup {
			t.Errorf("files of a stopped pod's group %s are kept", key.group)
		}
	}
	for name, c := range map[string]struct {
		filter *runtimeapi.PodSandboxStatsFilter
		want   []string
	}{
		"no filter":        {nil, []string{a.id, b.id}},
		"by ID":            {&runtimeapi.PodSandboxStatsFilter{Id: b.id[:20]}, []string{b.id}},
		"by label":         {&runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"app": "x"}}, []string{a.id}},
		"both must hold":   {&runtimeapi.PodSandboxStatsFilter{Id: b.id, LabelSelector: map[string]string{"app": "x"}}, nil},
		"of a stopped one": {&runtimeapi.PodSandboxStatsFilter{Id: stopped.id}, nil},
	} {
		var got []string
		for _, s := range n.ListPodSandboxStats(c.filter) {
			got = append(got, s.Attributes.Id)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestFiguresGoOnWithoutKeptFiles(t *testing.T) {
	n := newNode(t)
	p, _ := n.start(sandboxRequest("a"))
	must[*runtimeapi.PodSandboxStats](t)(n.PodSandboxStats(p.id))
	n.figures.close()
	n.inhabit(p.snapshot().Cgroup)
	s := must[*runtimeapi.PodSandboxStats](t)(n.PodSandboxStats(p.id))
	if s.Linux.Process.ProcessCount.Value != 1 || len(n.figures.meters) != 0 {
		t.Errorf("%v processes, %d meters kept", s.Linux.Process, len(n.figures.meters))
	}
}

func TestUpdatePodSandboxResourcesIsRecorded(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	if err := n.UpdatePodSandboxResources(ctx, "none", nil, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("an unknown pod: %v, want NotFound", err)
	}
	req := sandboxRequest("a")
	p, _ := n.start(req)
	err := n.UpdatePodSandboxResources(ctx, p.id, &runtimeapi.LinuxContainerResources{CpuShares: 7}, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if req.Config.Linux.Resources != nil {
		t.Error("the caller's request was changed")
	}
	n.restart(ctx)
	linux := must[*Pod](t)(n.findPod(p.id)).snapshot().Config.M.GetLinux()
	if linux.GetOverhead().GetCpuShares() != 7 || linux.GetResources().GetMemoryLimitInBytes() != 1<<30 {
		t.Errorf("after a restart overhead %v, resources %v", linux.GetOverhead(), linux.GetResources())
	}
	if again := must[string](t)(n.RunPodSandbox(ctx, req)); again != p.id {
		t.Errorf("the same request makes another pod (%s) after an update", again)
	}
}

// Every metric but those a machine may lack (†, MET-3) has a value of a running pod, with as many labels as its descriptor has keys.
func TestMetricsOfARunningPod(t *testing.T) {
	n := newNode(t)
	p, c := n.start(sandboxRequest("a"))
	all := must[[]*runtimeapi.PodSandboxMetrics](t)(n.ListPodSandboxMetrics())
	if len(all) != 1 || len(all[0].ContainerMetrics) != 1 || all[0].PodSandboxId != p.id || all[0].ContainerMetrics[0].ContainerId != c.id {
		t.Fatalf("metrics of %v", all)
	}
	found := map[string]*runtimeapi.Metric{}
	for _, m := range slices.Concat(all[0].Metrics, all[0].ContainerMetrics[0].Metrics) {
		found[m.Name] = m
	}
	for _, d := range stats.Descriptors() {
		m := found[d.Name]
		if m == nil {
			if !mayLack(d.Name) {
				t.Errorf("%s has no value", d.Name)
			}
			continue
		}
		if len(m.LabelValues) != len(d.LabelKeys) || m.Timestamp != 0 {
			t.Errorf("%s: labels %q for %q, timestamp %d", m.Name, m.LabelValues, d.LabelKeys, m.Timestamp)
		}
	}
	if got, want := found["container_processes"].LabelValues, []string{"c", c.snapshot().Cgroup, "busybox", c.id, "default", "a"}; !slices.Equal(got, want) {
		t.Errorf("labels of a container %q, want %q", got, want)
	}
	if got := found["container_network_receive_bytes_total"].LabelValues; got[0] != "POD" || got[3] != p.id || got[6] != "eth0" {
		t.Errorf("labels of a pod %q", got)
	}
}

func mayLack(name string) bool {
	for _, part := range []string{"hugetlb", "pressure", "spec_cpu_quota", "reservation", "ulimits"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// BenchmarkListPodSandboxStats is of 50 pods of one container, without the network's share and the edge's.
func BenchmarkListPodSandboxStats(b *testing.B) {
	const pods = 50
	tree, err := cgroup.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	runtime := &fakeRuntime{processes: map[string]*fakeProcess{}}
	root, parent := b.TempDir(), fmt.Sprintf("/fermata-pod-bench-%d", os.Getpid())
	m := New(Options{
		Root: root, State: b.TempDir(), CgroupParent: parent, BootID: "boot", Cgroups: tree, Images: &fakeImages{held: map[string]string{}},
		Network: &fakeNetwork{leases: map[string]netip.Addr{}}, Runtime: runtime, Supervisor: runtime, Records: &fakeRecords{root: root + "/pods"},
		Facts: spec.Facts{CgroupMode: spec.CgroupV1}, Handlers: []string{""}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	runtime.exited = func(e Exit) { m.Exited(e) }
	defer func() {
		runtime.killAll()
		m.Close()
		if err := tree.Group(parent).Remove(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	ctx := b.Context()
	if err := m.Recover(ctx); err != nil {
		b.Fatal(err)
	}
	for i := range pods {
		req := sandboxRequest(strconv.Itoa(i))
		req.Config.Linux.CgroupParent = parent + "/pod" + req.Config.Metadata.Uid
		podID, err := m.RunPodSandbox(ctx, req)
		if err != nil {
			b.Fatal(err)
		}
		id, err := m.CreateContainer(ctx, containerRequest(podID, req, "c"))
		if err == nil {
			err = m.StartContainer(ctx, id)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if got := len(m.ListPodSandboxStats(nil)); got != pods {
			b.Fatalf("%d pods, want %d", got, pods)
		}
	}
}

func TestNoFilesAreKeptOfPodsThatEndWhileTheyAreLookedAt(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	looking, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for looking.Err() == nil {
				n.ListPodSandboxStats(nil)
				n.ListContainerStats(nil)
			}
		})
	}
	for i := range 12 {
		req := sandboxRequest(strconv.Itoa(i))
		if i%2 == 0 {
			req.Config.Linux.CgroupParent = n.CgroupParent + "/pod" + req.Config.Metadata.Uid
		}
		p, _ := n.start(req)
		n.ListPodSandboxStats(nil)
		if err := n.StopPodSandbox(ctx, p.id); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	readers.Wait()
	if kept := len(n.figures.meters); kept != 0 {
		t.Errorf("%d meters kept, of %v", kept, slices.Collect(maps.Keys(n.figures.meters)))
	}
}
