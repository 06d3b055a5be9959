package spec

import (
	"regexp"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// pageSize is a huge page's as cgroups name it.
var pageSize = regexp.MustCompile(`^[1-9][0-9]{0,9}[KMG]B$`)

// Resources maps CRI's limits onto the OCI's; 0 is "not specified" throughout. It never returns nil.
func Resources(r *runtimeapi.LinuxContainerResources, f Facts) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	if r == nil {
		return out, nil
	}
	for _, v := range []struct {
		field      string
		value, min int64
	}{
		{"cpu_period", r.CpuPeriod, 0}, {"cpu_quota", r.CpuQuota, -1}, {"cpu_shares", r.CpuShares, 0},
		{"memory_limit_in_bytes", r.MemoryLimitInBytes, -1}, {"memory_swap_limit_in_bytes", r.MemorySwapLimitInBytes, -1},
	} {
		if v.value < v.min {
			return nil, errs.New(errs.InvalidArgument, "linux.resources.%s: %d is below %d", v.field, v.value, v.min)
		}
	}
	if limit, both := r.MemoryLimitInBytes, r.MemorySwapLimitInBytes; limit > 0 && both > 0 && both < limit {
		return nil, errs.New(errs.InvalidArgument, "linux.resources.memory_swap_limit_in_bytes: memory and swap together, %d, are below memory alone, %d", both, limit)
	}
	out.CPU = cpu(r)
	out.Memory = memory(r, f)
	if err := checkCPU(r); err != nil {
		return nil, err
	}
	for _, h := range r.HugepageLimits {
		if !pageSize.MatchString(h.GetPageSize()) {
			return nil, errs.New(errs.InvalidArgument, "linux.resources.hugepage_limits.page_size: bad size %.80q, want one like 2MB", h.GetPageSize())
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
	}
	for key, value := range r.Unified {
		// The key becomes a file's name below the container's cgroup: nothing else may be reached by it.
		if !strings.Contains(key, ".") || strings.ContainsAny(key, "/\x00") || strings.HasPrefix(key, ".") || strings.HasPrefix(key, "cgroup.") {
			return nil, errs.New(errs.InvalidArgument, "linux.resources.unified: bad key %q", key)
		}
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified[key] = value
	}
	return out, nil
}

// What the kernel's bandwidth control takes, in µs (sched-bwc.rst).
const (
	minPeriod = 1_000
	maxPeriod = 1_000_000
	minQuota  = 1_000
	maxQuota  = 1<<44 - 1
)

// cpuList is a list of processors or nodes as cpuset(7) has it: "0-3,7", also with a stride "0-7:2/4".
var cpuList = regexp.MustCompile(`^\s*\d{1,5}(-\d{1,5}(:\d{1,5}/\d{1,5})?)?(,\d{1,5}(-\d{1,5}(:\d{1,5}/\d{1,5})?)?)*\s*$`)

// checkCPU refuses what the kernel would, in the request's words.
func checkCPU(r *runtimeapi.LinuxContainerResources) error {
	if p := r.CpuPeriod; p != 0 && (p < minPeriod || p > maxPeriod) {
		return errs.New(errs.InvalidArgument, "linux.resources.cpu_period: %d µs are not from %d to %d", p, minPeriod, maxPeriod)
	}
	if q := r.CpuQuota; q > 0 && (q < minQuota || q > maxQuota) {
		return errs.New(errs.InvalidArgument, "linux.resources.cpu_quota: %d µs are not from %d to %d", q, minQuota, int64(maxQuota))
	}
	for field, list := range map[string]string{"cpuset_cpus": r.CpusetCpus, "cpuset_mems": r.CpusetMems} {
		if list != "" && !cpuList.MatchString(list) {
			return errs.New(errs.InvalidArgument, "linux.resources.%s: %.80q is no list like 0-3,7", field, list)
		}
	}
	return nil
}

func cpu(r *runtimeapi.LinuxContainerResources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CpuShares != 0 {
		shares := uint64(r.CpuShares)
		c.Shares = &shares
	}
	if r.CpuQuota != 0 {
		quota := r.CpuQuota
		c.Quota = &quota
	}
	if r.CpuPeriod != 0 {
		period := uint64(r.CpuPeriod)
		c.Period = &period
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

// memory: a swap limit is of memory and swap together, as cgroup v1 counts and the OCI writes it. None given means no swap at all.
func memory(r *runtimeapi.LinuxContainerResources, f Facts) *specs.LinuxMemory {
	if r.MemoryLimitInBytes == 0 && r.MemorySwapLimitInBytes == 0 {
		return nil
	}
	m := &specs.LinuxMemory{}
	swap := r.MemorySwapLimitInBytes
	if limit := r.MemoryLimitInBytes; limit != 0 {
		m.Limit = &limit
		if swap == 0 {
			swap = limit
		}
	}
	if f.Swap {
		m.Swap = &swap
	}
	return m
}
