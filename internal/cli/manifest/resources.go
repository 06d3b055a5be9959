package manifest

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet's figures: pkg/kubelet/cm/helpers_linux.go and pkg/kubelet/qos/policy.go.
const (
	minShares = 2
	period    = 100_000 // µs
	minQuota  = 1_000   // µs

	scoreGuaranteed = -997
	scoreBestEffort = 1000
)

func resources(pod *Pod, facts Facts, c *Container) *runtimeapi.LinuxContainerResources {
	r := &runtimeapi.LinuxContainerResources{
		CpuShares:          minShares,
		MemoryLimitInBytes: c.Resources.Limits["memory"].Whole(),
		OomScoreAdj:        oomScore(pod, facts, c),
	}
	if request, ok := c.Resources.Requests["cpu"]; ok {
		r.CpuShares = max(minShares, request.Milli*1024/1000)
	}
	if limit, ok := c.Resources.Limits["cpu"]; ok && limit.Milli > 0 {
		r.CpuPeriod = period
		r.CpuQuota = max(minQuota, limit.Milli*period/1000)
	}
	for _, name := range sortedKeys(c.Resources.Limits) {
		if size, ok := strings.CutPrefix(name, "hugepages-"); ok {
			r.HugepageLimits = append(r.HugepageLimits, &runtimeapi.HugepageLimit{
				PageSize: strings.TrimSuffix(size, "i") + "B", Limit: uint64(c.Resources.Limits[name].Whole()),
			})
		}
	}
	return r
}

// oomScore makes the kernel choose among pods as the kubelet does: guaranteed ones last, ones that asked for nothing first, and the
// others the sooner the less memory they asked for.
func oomScore(pod *Pod, facts Facts, c *Container) int64 {
	guaranteed, bestEffort := true, true
	for _, list := range [][]Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, each := range list {
			for _, name := range []string{"cpu", "memory"} {
				limit, limited := each.Resources.Limits[name]
				request, requested := each.Resources.Requests[name]
				guaranteed = guaranteed && limited && limit.Milli > 0 && request == limit
				bestEffort = bestEffort && !requested
			}
		}
	}
	switch {
	case guaranteed:
		return scoreGuaranteed
	case bestEffort || facts.Memory == 0:
		return scoreBestEffort
	}
	score := scoreBestEffort - 1000*c.Resources.Requests["memory"].Whole()/facts.Memory
	return min(max(score, 1000+scoreGuaranteed), scoreBestEffort-1)
}
