package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod that works shows it in every figure the kubelet looks at.
func TestFiguresOfAPodThatWorks(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "figures")
	id := p.run(t, shell("busy", "dd if=/dev/zero of=/file bs=1M count=2 2>/dev/null; sync /file; echo written; nc -l -p 9 & while true; do :; done"))
	eventually(t, "the file to be written", func() (bool, string) { return slices.Contains(p.lines(t, "busy"), "stdout written"), "" })
	var last *runtimeapi.PodSandboxStats
	eventually(t, "half a core", func() (bool, string) {
		resp, err := n.CRI.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
		check(t, err)
		last = resp.Stats
		cpu := last.Linux.Cpu
		return cpu.GetUsageNanoCores().GetValue() > 2e8 && cpu.GetUsageCoreNanoSeconds().GetValue() > 15e8, // metrics have whole seconds, and are of the container alone
			fmt.Sprint(cpu)
	})
	linux := last.Linux
	if linux.Network.GetDefaultInterface().GetName() != "eth0" || linux.Network.DefaultInterface.RxBytes.GetValue() == 0 {
		t.Errorf("network %v", linux.Network)
	}
	if got := linux.Process.ProcessCount.GetValue(); got < 3 { // pause, sh, nc
		t.Errorf("%d processes", got)
	}
	if len(linux.Containers) != 1 || linux.Containers[0].Attributes.Id != id {
		t.Fatalf("containers %v", linux.Containers)
	}
	c := linux.Containers[0]
	if c.WritableLayer.UsedBytes.GetValue() < 2<<20 || c.WritableLayer.InodesUsed.GetValue() == 0 {
		t.Errorf("writable layer %v", c.WritableLayer)
	}
	if c.Memory.WorkingSetBytes.GetValue() == 0 || c.Memory.WorkingSetBytes.GetValue() > c.Memory.UsageBytes.GetValue() {
		t.Errorf("memory %v", c.Memory)
	}
	checkMetrics(t, n, p.id, id)
}

// checkMetrics looks at the same pod's metrics (critest's list: MET-3).
func checkMetrics(t *testing.T, n *world, podID, containerID string) {
	t.Helper()
	described, err := n.CRI.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	check(t, err)
	resp, err := n.CRI.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	check(t, err)
	if len(resp.PodMetrics) != 1 || resp.PodMetrics[0].PodSandboxId != podID || len(resp.PodMetrics[0].ContainerMetrics) != 1 ||
		resp.PodMetrics[0].ContainerMetrics[0].ContainerId != containerID {
		t.Fatalf("metrics of %v", resp.PodMetrics)
	}
	values := map[string]uint64{}
	for _, m := range slices.Concat(resp.PodMetrics[0].Metrics, resp.PodMetrics[0].ContainerMetrics[0].Metrics) {
		values[m.Name] += m.Value.GetValue()
	}
	if len(described.Descriptors) != 58 { // critest's 56 (MET-3), and containerd's two of page cache
		t.Errorf("%d descriptors, want 58", len(described.Descriptors))
	}
	for _, d := range described.Descriptors {
		if _, ok := values[d.Name]; !ok && !strings.Contains(d.Name, "pressure") && !strings.Contains(d.Name, "hugetlb") && d.Name != "container_spec_cpu_quota" {
			t.Errorf("%s has no value", d.Name)
		}
	}
	for name, least := range map[string]uint64{
		"container_cpu_usage_seconds_total": 1, "container_processes": 2, "container_threads": 2, "container_file_descriptors": 6, "container_sockets": 1,
		"container_fs_usage_bytes": 2 << 20, "container_fs_limit_bytes": 1 << 20, "container_memory_working_set_bytes": 4096,
		"container_memory_failures_total": 1, "container_network_receive_bytes_total": 1, "container_start_time_seconds": 1e9,
		"container_last_seen": 1e9, "container_ulimits_soft": 1,
	} {
		if values[name] < least {
			t.Errorf("%s is %d, want at least %d", name, values[name], least)
		}
	}
}
