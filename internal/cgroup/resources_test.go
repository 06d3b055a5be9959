package cgroup

import (
	"fmt"
	"strings"
	"testing"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

func allV1(string) Mode { return V1 }
func allV2(string) Mode { return V2 }

// text renders settings as lines "file value", optional ones with a question mark.
func text(list []setting) string {
	var b strings.Builder
	for _, s := range list {
		file := s.file
		if s.optional {
			file += "?"
		}
		fmt.Fprintf(&b, "%s %s\n", file, s.value)
	}
	return b.String()
}

func TestResourcesBecomeFiles(t *testing.T) {
	type r = specs.LinuxResources
	lines := func(l ...string) string { return strings.Join(append(l, ""), "\n") }
	for _, c := range []struct {
		name   string
		r      r
		v1, v2 string
	}{
		{"nothing", r{}, "", ""},
		{"empty parts", r{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}, Pids: &specs.LinuxPids{}, BlockIO: &specs.LinuxBlockIO{}}, "", ""},
		{"zeroes change nothing", r{CPU: &specs.LinuxCPU{Shares: ptr[uint64](0), Quota: ptr[int64](0), Period: ptr[uint64](0)},
			Memory: &specs.LinuxMemory{Limit: ptr[int64](0), Swap: ptr[int64](0)}}, "", ""},
		{"a kubelet's guaranteed container",
			r{CPU: &specs.LinuxCPU{Shares: ptr[uint64](1024), Quota: ptr[int64](100000), Period: ptr[uint64](100000), Cpus: "0-1", Mems: "0"},
				Memory:         &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](64 << 20)},
				HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}, {Pagesize: "1GB"}}},
			lines("cpu.shares 1024", "cpu.cfs_period_us 100000", "cpu.cfs_quota_us 100000", "cpuset.cpus 0-1", "cpuset.mems 0",
				"memory.limit_in_bytes 67108864", "memory.memsw.limit_in_bytes? 67108864",
				"hugetlb.2MB.limit_in_bytes? 0", "hugetlb.2MB.rsvd.limit_in_bytes? 0", "hugetlb.1GB.limit_in_bytes? 0", "hugetlb.1GB.rsvd.limit_in_bytes? 0"),
			lines("cpu.weight 100", "cpu.max 100000 100000", "cpuset.cpus 0-1", "cpuset.mems 0", "memory.swap.max? 0", "memory.max 67108864",
				"hugetlb.2MB.max? 0", "hugetlb.2MB.rsvd.max? 0", "hugetlb.1GB.max? 0", "hugetlb.1GB.rsvd.max? 0")},
		{"a quota alone", r{CPU: &specs.LinuxCPU{Quota: ptr[int64](50000)}}, lines("cpu.cfs_quota_us 50000"), lines("cpu.max 50000")},
		{"a period alone", r{CPU: &specs.LinuxCPU{Period: ptr[uint64](50000)}}, lines("cpu.cfs_period_us 50000"), lines("cpu.max keep 50000")},
		{"no quota any more", r{CPU: &specs.LinuxCPU{Quota: ptr[int64](-1)}}, lines("cpu.cfs_quota_us -1"), lines("cpu.max max")},
		{"no quota with a period", r{CPU: &specs.LinuxCPU{Quota: ptr[int64](-1), Period: ptr[uint64](100000)}},
			lines("cpu.cfs_period_us 100000", "cpu.cfs_quota_us -1"), lines("cpu.max max 100000")},
		{"burst", r{CPU: &specs.LinuxCPU{Burst: ptr[uint64](1000)}}, lines("cpu.cfs_burst_us 1000"), lines("cpu.max.burst 1000")},
		{"an idle group has no weight", r{CPU: &specs.LinuxCPU{Idle: ptr[int64](1), Shares: ptr[uint64](2)}}, lines("cpu.idle 1"), lines("cpu.idle 1")},
		{"a group no longer idle has one", r{CPU: &specs.LinuxCPU{Idle: ptr[int64](0), Shares: ptr[uint64](2)}}, lines("cpu.idle 0", "cpu.shares 2"), lines("cpu.idle 0", "cpu.weight 1")},
		{"memory without swap", r{Memory: &specs.LinuxMemory{Limit: ptr[int64](1000)}}, lines("memory.limit_in_bytes 1000"), lines("memory.max 1000")},
		{"swap beside memory", r{Memory: &specs.LinuxMemory{Limit: ptr[int64](1000), Swap: ptr[int64](1500)}},
			lines("memory.limit_in_bytes 1000", "memory.memsw.limit_in_bytes 1500"), lines("memory.swap.max 500", "memory.max 1000")},
		{"swap without end", r{Memory: &specs.LinuxMemory{Limit: ptr[int64](1000), Swap: ptr[int64](-1)}},
			lines("memory.limit_in_bytes 1000", "memory.memsw.limit_in_bytes? -1"), lines("memory.swap.max? max", "memory.max 1000")},
		{"memory without end means swap without end", r{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1)}},
			lines("memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes? -1"), lines("memory.swap.max? max", "memory.max max")},
		{"memory without end, swap with", r{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1), Swap: ptr[int64](500)}},
			lines("memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes 500"), lines("memory.swap.max 500", "memory.max max")},
		{"a soft limit", r{Memory: &specs.LinuxMemory{Reservation: ptr[int64](7)}}, lines("memory.soft_limit_in_bytes 7"), lines("memory.low 7")},
		{"the kernel's memory is not limited apart", r{Memory: &specs.LinuxMemory{Kernel: ptr[int64](7), KernelTCP: ptr[int64](7)}}, "", ""},
		{"pids", r{Pids: &specs.LinuxPids{Limit: ptr[int64](100)}}, lines("pids.max 100"), lines("pids.max 100")},
		{"pids without end", r{Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}}, lines("pids.max max"), lines("pids.max max")},
		{"block devices", r{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](500),
			ThrottleReadBpsDevice:   []specs.LinuxThrottleDevice{throttleDevice(8, 0, 1000)},
			ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttleDevice(8, 16, 0)}}},
			lines("blkio.bfq.weight 500", "blkio.throttle.read_bps_device 8:0 1000", "blkio.throttle.write_iops_device 8:16 0"),
			lines("io.bfq.weight 500", "io.max 8:0 rbps=1000", "io.max 8:16 wiops=max")},
		{"remote memory access", r{Rdma: map[string]specs.LinuxRdma{"mlx5": {HcaHandles: ptr[uint32](3), HcaObjects: ptr[uint32](4)}}},
			lines("rdma.max mlx5 hca_handle=3 hca_object=4"), lines("rdma.max mlx5 hca_handle=3 hca_object=4")},
	} {
		for mode, of := range map[Mode]func(string) Mode{V1: allV1, V2: allV2} {
			t.Run(c.name+" on "+mode.String(), func(t *testing.T) {
				want := map[Mode]string{V1: c.v1, V2: c.v2}[mode]
				list, err := settings(&c.r, of)
				if err != nil || text(list) != want {
					t.Errorf("%v\n%s\nwant\n%s", err, text(list), want)
				}
			})
		}
	}
}

func throttleDevice(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

// A hybrid machine with hugetlb on v2 and all else on v1, as the one fermata was first built on.
func TestEachControllerIsDrivenInItsOwnVersion(t *testing.T) {
	of := func(c string) Mode {
		if c == "hugetlb" {
			return V2
		}
		return V1
	}
	list, err := settings(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](5)}, HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
		Unified: map[string]string{"hugetlb.1GB.max": "0"},
	}, of)
	if want := "memory.limit_in_bytes 5\nhugetlb.2MB.max 4194304\nhugetlb.2MB.rsvd.max? 4194304\nhugetlb.1GB.max 0\n"; err != nil || text(list) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, text(list), want)
	}
}

func TestUnifiedResourcesAreLiteral(t *testing.T) {
	list, err := settings(&specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: ptr[uint64](1024)},
		Unified: map[string]string{"memory.oom.group": "1", "memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 wbps=2\n", "cpu.weight": "7"},
	}, allV2)
	want := "cpu.weight 100\ncpu.weight 7\nio.max 8:0 rbps=1\nio.max 8:16 wbps=2\nmemory.high 1000\nmemory.oom.group 1\n"
	if err != nil || text(list) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, text(list), want)
	}
}

func TestResourcesThatMakeNoSense(t *testing.T) {
	type r = specs.LinuxResources
	for _, c := range []struct {
		name   string
		r      r
		v1, v2 errs.Kind
	}{
		{"a quota below none", r{CPU: &specs.LinuxCPU{Quota: ptr[int64](-2)}}, errs.InvalidArgument, errs.InvalidArgument},
		{"memory below none", r{Memory: &specs.LinuxMemory{Limit: ptr[int64](-2)}}, errs.InvalidArgument, errs.InvalidArgument},
		{"memory and swap below memory", r{Memory: &specs.LinuxMemory{Limit: ptr[int64](10), Swap: ptr[int64](9)}}, errs.InvalidArgument, errs.InvalidArgument},
		{"swap without memory", r{Memory: &specs.LinuxMemory{Swap: ptr[int64](9)}}, none, errs.InvalidArgument},
		{"no OOM killer", r{Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}}, none, errs.Unimplemented},
		{"swappiness over 100", r{Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](101)}}, errs.InvalidArgument, none},
		{"a page size that is a path", r{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB"}}}, errs.InvalidArgument, errs.InvalidArgument},
		{"leaf weights", r{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr[uint16](10)}}, errs.Unimplemented, errs.Unimplemented},
		{"a unified file", r{Unified: map[string]string{"memory.high": "1"}}, errs.InvalidArgument, none},
		{"a unified path", r{Unified: map[string]string{"../memory.high": "1"}}, errs.InvalidArgument, errs.InvalidArgument},
		{"a unified file that kills", r{Unified: map[string]string{"cgroup.kill": "1"}}, errs.InvalidArgument, errs.InvalidArgument},
		{"a unified file that moves", r{Unified: map[string]string{"cgroup.procs": "1"}}, errs.InvalidArgument, errs.InvalidArgument},
		{"a unified file without a controller", r{Unified: map[string]string{"high": "1"}}, errs.InvalidArgument, errs.InvalidArgument},
	} {
		for mode, of := range map[Mode]func(string) Mode{V1: allV1, V2: allV2} {
			want := map[Mode]errs.Kind{V1: c.v1, V2: c.v2}[mode]
			_, err := settings(&c.r, of)
			if want == none && err != nil || want != none && !errs.Is(err, want) {
				t.Errorf("%s on %v: %v, want %v", c.name, mode, err, want)
			}
		}
	}
}

const none errs.Kind = 255

// The values of runc 1.3's TestConvertCPUSharesToCgroupV2Value, and that reading back a weight gives it again.
func TestWeights(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 1 << 18: 10000, 1<<18 + 1: 10000, 1<<64 - 1: 10000, 1024: 100} {
		if got := WeightOf(shares); got != want {
			t.Errorf("%d shares are weight %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for shares := uint64(2); shares <= 1<<18; shares += 7 {
		w := WeightOf(shares)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("%d shares are weight %d after %d", shares, w, last)
		}
		last = w
		if back := WeightOf(SharesOf(w)); back != w {
			t.Fatalf("%d shares are weight %d, which reads back as %d", shares, w, back)
		}
	}
	for weight, want := range map[uint64]uint64{0: 0, 1: 2, 10000: 1 << 18} {
		if got := SharesOf(weight); weight < 10000 && got != want || got > 1<<18 {
			t.Errorf("weight %d is %d shares, want %d", weight, got, want)
		}
	}
}
