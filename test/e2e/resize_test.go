package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
)

type resources = runtimeapi.LinuxContainerResources

// granted is what the kernel gives a container, as the container sees it, in the words of cgroup v2 but for the shares.
type granted struct{ cpu, memory, cpuset string }

// granted asks from within. On v1 the quota is put into v2's form; "max" is no limit in both.
func (w *world) granted(t *testing.T, id string) granted {
	t.Helper()
	cat := func(v2, v1 string) string {
		out, err := w.CRI.Exec(t.Context(), id, "sh", "-c", "cd /sys/fs/cgroup; if [ -f cgroup.controllers ]; then cat "+v2+"; else cat "+v1+"; fi")
		check(t, err)
		out = strings.Join(strings.Fields(out), " ")
		if strings.HasPrefix(out, "-1") || len(out) == 19 { // v1's no limit: of the quota, and the largest page-aligned number
			return "max"
		}
		return out
	}
	cpu := strings.TrimSuffix(cat("cpu.max", "cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us"), "max 100000")
	if cpu == "" {
		cpu = "max"
	}
	return granted{cpu, cat("memory.max", "memory/memory.limit_in_bytes"), cat("cpuset.cpus", "cpuset/cpuset.cpus")}
}

// What the kubelet does to resize a pod in place, and reads back (UCR-1 to UCR-4).
func TestResizeInPlace(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "resized")
	ctr := shell("main", "exec sleep 100000")
	ctr.Linux.Resources = &resources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512}
	id := p.run(t, ctr)
	in := proto.Clone(ctr.Linux.Resources).(*resources)
	for _, c := range []struct {
		name   string
		change *resources
		want   granted
		code   codes.Code
	}{
		{"more of all", &resources{MemoryLimitInBytes: 128 << 20, CpuQuota: 80000, CpuShares: 1024}, granted{"80000 100000", "134217728", ""}, codes.OK},
		{"less of all", &resources{MemoryLimitInBytes: 32 << 20, CpuQuota: 20000, CpuShares: 256}, granted{"20000 100000", "33554432", ""}, codes.OK},
		{"the processor alone, memory as before", &resources{CpuQuota: 30000}, granted{"30000 100000", "33554432", ""}, codes.OK},
		{"memory alone, the processor as before", &resources{MemoryLimitInBytes: 64 << 20}, granted{"30000 100000", "67108864", ""}, codes.OK},
		{"memory with swap, both more", &resources{MemoryLimitInBytes: 96 << 20, MemorySwapLimitInBytes: 96 << 20}, granted{"30000 100000", "100663296", ""}, codes.OK},
		{"memory with swap, both less", &resources{MemoryLimitInBytes: 48 << 20, MemorySwapLimitInBytes: 48 << 20}, granted{"30000 100000", "50331648", ""}, codes.OK},
		{"another period", &resources{CpuPeriod: 50000, CpuQuota: 25000}, granted{"25000 50000", "50331648", ""}, codes.OK},
		{"one processor", &resources{CpusetCpus: "0"}, granted{"25000 50000", "50331648", "0"}, codes.OK},
		{"nothing changes nothing", &resources{}, granted{"25000 50000", "50331648", "0"}, codes.OK},
		{"memory below what is in use, and a quota with it: neither", &resources{MemoryLimitInBytes: 4096, CpuQuota: 10000},
			granted{"25000 50000", "50331648", "0"}, codes.FailedPrecondition},
		{"a processor that is not there, and a quota with it: neither", &resources{CpusetCpus: "4000", CpuQuota: 10000},
			granted{"25000 50000", "50331648", "0"}, codes.InvalidArgument},
		{"a quota the kernel refuses", &resources{CpuQuota: 1}, granted{"25000 50000", "50331648", "0"}, codes.InvalidArgument},
		{"no quota any more", &resources{CpuQuota: -1, CpuPeriod: 100000}, granted{"max", "50331648", "0"}, codes.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.CRI.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: c.change})
			if status.Code(err) != c.code {
				t.Fatalf("%v, want %v", err, c.code)
			}
			if err == nil {
				proto.Merge(in, c.change)
			}
			got := n.granted(t, id)
			if c.want.cpuset == "" { // the machine's, whatever they are
				got.cpuset = ""
			}
			if got != c.want {
				t.Errorf("the kernel gives %+v, want %+v", got, c.want)
			}
			if told := n.resources(t, id); told.MemoryLimitInBytes != in.MemoryLimitInBytes || told.CpuQuota != in.CpuQuota ||
				told.CpuPeriod != in.CpuPeriod || told.CpuShares != in.CpuShares || told.CpusetCpus != in.CpusetCpus {
				t.Errorf("the status tells %v, want %v", told, in)
			}
		})
	}
}

// A container that has not been started yet starts with what it was changed to; one that has ended has nothing to change.
func TestResizeBeforeTheStartAndAfterTheEnd(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "resized")
	ctr := shell("main", "exec sleep 100000")
	ctr.Linux.Resources = &resources{MemoryLimitInBytes: 64 << 20}
	id, err := n.CRI.Create(t.Context(), p.id, p.config, ctr)
	check(t, err)
	update := func(change *resources) error {
		_, err := n.CRI.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: change})
		return err
	}
	check(t, update(&resources{MemoryLimitInBytes: 96 << 20, CpuQuota: 40000, CpuPeriod: 100000}))
	check(t, n.CRI.Start(t.Context(), id))
	if got := n.granted(t, id); got.memory != "100663296" || got.cpu != "40000 100000" {
		t.Errorf("it starts with %+v", got)
	}
	_, err = n.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
	check(t, err)
	if err := update(&resources{CpuQuota: 50000}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an ended container: %v, want FailedPrecondition", err)
	}
	if got := n.resources(t, id).CpuQuota; got != 40000 {
		t.Errorf("its status tells a quota of %d, want 40000", got)
	}
}

// The kubelet has changed the pod's group itself; the runtime remembers what it is told, and touches nothing (UPR-1).
func TestResourcesOfAPodAreRemembered(t *testing.T) {
	n := start(t)
	config := cri.PodConfig("pod", "")
	config.Linux.Overhead = &resources{CpuShares: 10, MemoryLimitInBytes: 8 << 20}
	config.Linux.Resources = &resources{CpuShares: 100, MemoryLimitInBytes: 64 << 20}
	id, err := n.CRI.RunPod(t.Context(), config)
	check(t, err)
	overhead, given := n.podResources(t, id)
	if !proto.Equal(overhead, config.Linux.Overhead) || !proto.Equal(given, config.Linux.Resources) {
		t.Errorf("at first: overhead %v, resources %v", overhead, given)
	}
	changed := &resources{CpuShares: 200, MemoryLimitInBytes: 128 << 20}
	_, err = n.CRI.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: id, Resources: changed})
	check(t, err)
	overhead, given = n.podResources(t, id)
	if !proto.Equal(overhead, config.Linux.Overhead) || !proto.Equal(given, changed) {
		t.Errorf("after the change: overhead %v, resources %v", overhead, given)
	}
	_, err = n.CRI.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "none", Resources: changed})
	if status.Code(err) != codes.NotFound {
		t.Errorf("an unknown pod: %v, want NotFound", err)
	}
}

// resources are what a container's status tells.
func (w *world) resources(t *testing.T, id string) *resources {
	t.Helper()
	r, err := w.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	check(t, err)
	return r.Status.GetResources().GetLinux()
}

// podResources are what a pod's verbose status tells.
func (w *world) podResources(t *testing.T, id string) (overhead, given *resources) {
	t.Helper()
	r, err := w.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	check(t, err)
	var info struct {
		Cgroup string
		Config runtimeapi.PodSandboxConfig
	}
	check(t, json.Unmarshal([]byte(r.Info["info"]), &info))
	if filepath.Base(info.Cgroup) != id {
		t.Errorf("the pod's group is %s", info.Cgroup)
	}
	return info.Config.Linux.GetOverhead(), info.Config.Linux.GetResources()
}
