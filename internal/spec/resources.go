package spec

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

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
	out.CPU = cpu(r)
	out.Memory = memory(r, f)
	for _, h := range r.HugepageLimits {
		if h.GetPageSize() == "" || strings.ContainsAny(h.PageSize, "/\x00") {
			return nil, errs.New(errs.InvalidArgument, "linux.resources.hugepage_limits.page_size: bad size %q", h.GetPageSize())
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
