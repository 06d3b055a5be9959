package stats

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
)

var update = flag.Bool("update", false, "rewrite the goldens")

func TestDescriptors(t *testing.T) {
	var b strings.Builder
	for i, d := range Descriptors() {
		fmt.Fprintf(&b, "%s %s {%s}\n\t%s\n", d.Name, table[i].kind, strings.Join(d.LabelKeys, ","), d.Help)
	}
	golden(t, "testdata/descriptors.golden", b.String())
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is there now (-update rewrites it):\n%s", file, got)
	}
}

// everything has a different figure in each member, so that a value in the wrong metric shows.
func everything() *Figures {
	files, swap := uint64(1024), uint64(4000)
	line := func(n uint64) cgroup.PressureLine { return cgroup.PressureLine{Total: n * 1e9} }
	pressure := func(n uint64) *cgroup.Pressure { return &cgroup.Pressure{Some: line(n), Full: line(n - 1)} }
	return &Figures{
		Now: time.Unix(2000000, 0), Started: time.Unix(1000000, 0),
		Group: cgroup.Stats{
			CPU: cgroup.CPU{
				Usage: 10e9, User: 7e9, System: 3e9, Shares: 2, Quota: 50000, Period: 100000, Periods: 11, Throttled: 12, ThrottledTime: 13e9, Pressure: pressure(22),
			},
			Memory: cgroup.Memory{
				Usage: 101, WorkingSet: 102, RSS: 103, Cache: 104, Mapped: 105, Kernel: 106, ActiveFile: 115, InactiveFile: 116, MaxUsage: 107, Limit: 108, Reservation: 109,
				PageFaults: 110, MajorPageFaults: 111, LimitHits: 112, OOMKills: 113, Pressure: pressure(24),
			},
			Swap: cgroup.Swap{Usage: 114, Limit: &swap, Accounted: true}, Pids: cgroup.Pids{Current: 5, Limit: 100},
			Hugetlb:    map[string]cgroup.Hugetlb{"2MB": {Usage: 201, MaxUsage: 202}, "1GB": {Usage: 203, MaxUsage: 204}},
			IO:         []cgroup.IO{{Major: 0, Minor: 77, ReadBytes: 301, WriteBytes: 302, ReadOps: 303, WriteOps: 304}},
			IOPressure: pressure(26),
		},
		Processes:  Processes{Count: 3, FileDescriptors: 41, Sockets: 42, OpenFiles: &files},
		Layer:      Usage{Bytes: 501, Inodes: 502},
		Filesystem: Filesystem{Device: "/dev/root", Major: 0, Minor: 77, Limit: 503, InodesTotal: 504, InodesFree: 505},
		Interfaces: []Interface{{Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}},
	}
}

var labels = Labels{Container: "c", ID: "/kubepods/pod1/abc", Image: "busybox", Name: "abc", Namespace: "default", Pod: "p"}

func all(f *Figures) []*runtimeapi.Metric {
	return slices.Concat(Metrics(OfPod, &labels, f), Metrics(OfContainer, &labels, f))
}

func TestMetricsOfEveryFigure(t *testing.T) {
	keys := map[string][]string{}
	for _, d := range Descriptors() {
		keys[d.Name] = d.LabelKeys
	}
	var b strings.Builder
	for _, m := range all(everything()) {
		if len(m.LabelValues) != len(keys[m.Name]) {
			t.Errorf("%s: labels %q for keys %q", m.Name, m.LabelValues, keys[m.Name])
			continue
		}
		b.WriteString(m.Name)
		for i, key := range keys[m.Name][len(baseKeys):] {
			fmt.Fprintf(&b, " %s=%s", key, m.LabelValues[len(baseKeys)+i])
		}
		fmt.Fprintf(&b, " %d\n", m.Value.Value)
	}
	golden(t, "testdata/values.golden", b.String())
	for i, want := range labels.values() {
		if m := all(everything())[0]; m.LabelValues[i] != want {
			t.Errorf("%s is %q, want %q", baseKeys[i], m.LabelValues[i], want)
		}
	}
}

// What may be missing of a machine without any of it: those that critest does not insist on (†).
func TestMetricsOfABareMachine(t *testing.T) {
	there := map[string]bool{}
	for _, m := range all(&Figures{Interfaces: []Interface{{Name: "eth0"}}}) {
		there[m.Name] = true
	}
	var missing []string
	for _, d := range Descriptors() {
		if !there[d.Name] {
			missing = append(missing, strings.TrimPrefix(d.Name, prefix))
		}
	}
	want := []string{
		"hugetlb_max_usage_bytes", "hugetlb_usage_bytes", "pressure_cpu_stalled_seconds_total", "pressure_cpu_waiting_seconds_total",
		"pressure_io_stalled_seconds_total", "pressure_io_waiting_seconds_total", "pressure_memory_stalled_seconds_total",
		"pressure_memory_waiting_seconds_total", "spec_cpu_quota", "ulimits_soft",
	}
	if !slices.Equal(missing, want) {
		t.Errorf("without a value: %q\nwant: %q", missing, want)
	}
}

func TestOfGroup(t *testing.T) {
	f := &everything().Group
	half := uint64(5e8)
	g := OfGroup(f, &half)
	if g.CPU.UsageNanoCores.GetValue() != half || OfGroup(f, nil).CPU.UsageNanoCores != nil {
		t.Errorf("usage_nano_cores %v, and %v of an unknown rate", g.CPU.UsageNanoCores, OfGroup(f, nil).CPU.UsageNanoCores)
	}
	if p := g.CPU.Psi; p.GetSome().GetTotal() != 22e9 || p.GetFull().GetTotal() != 21e9 {
		t.Errorf("pressure %v; want nanoseconds", p)
	}
	if g.Swap.SwapAvailableBytes.GetValue() != 4000-114 || g.Swap.SwapUsageBytes.GetValue() != 114 {
		t.Errorf("swap %v", g.Swap)
	}
	if g.IO.GetPsi().GetSome().GetTotal() != 26e9 || g.Memory.GetPsi().GetFull().GetTotal() != 23e9 {
		t.Errorf("I/O %v, memory %v", g.IO, g.Memory.Psi)
	}
	if bare := OfGroup(&cgroup.Stats{}, nil); bare.Swap != nil || bare.IO != nil || bare.CPU.Psi != nil || bare.Memory.AvailableBytes != nil {
		t.Errorf("what a machine does not offer is not nil: %+v", bare)
	}
}

func TestAddedGroupsHaveNoLimit(t *testing.T) {
	var sum cgroup.Stats
	one, left := everything().Group, uint64(6)
	one.Memory.Available = &left
	Add(&sum, &one)
	Add(&sum, &one)
	if sum.CPU.Usage != 20e9 || sum.Memory.WorkingSet != 204 || sum.Pids.Current != 10 || sum.Swap.Usage != 228 {
		t.Errorf("two equal groups make %+v", sum)
	}
	if sum.Memory.Available != nil || sum.Memory.Limit != 0 || sum.CPU.Pressure != nil || sum.Swap.Limit != nil {
		t.Errorf("limits or pressure were added: %+v", sum)
	}
}

func TestNetworkOfAPodOnTheHost(t *testing.T) {
	if u := Network(time.Now(), nil); u != nil {
		t.Errorf("%v; want none", u)
	}
	u := Network(time.Now(), []Interface{{Name: "eth0", RxBytes: 1, TxErrors: 2}, {Name: "net1", TxBytes: 3}})
	if u.DefaultInterface.Name != "eth0" || len(u.Interfaces) != 1 || u.Interfaces[0].TxBytes.Value != 3 || u.DefaultInterface.TxErrors.Value != 2 || u.Timestamp == 0 {
		t.Errorf("%v", u)
	}
}
