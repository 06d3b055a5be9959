package cgroup

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one value to write to one file of a controller.
type setting struct {
	controller, file, value string
	// optional settings ask for what already is where the controller or the file is missing: no swap without swap accounting, no huge pages
	// without hugetlb.
	optional bool
}

// plan is what a set of resources means for a tree, in the order of writing. Devices are apart.
type plan struct {
	settings []setting
	err      error
	of       func(controller string) Mode // the version of the hierarchy that has a controller, 0 if none has
}

// settings converts resources. It is pure: of says which version each controller is driven by. What cannot be said in that version, or makes no
// sense, is InvalidArgument; what only the other version can do is Unimplemented.
func settings(r *specs.LinuxResources, of func(string) Mode) ([]setting, error) {
	p := &plan{of: of}
	if r.CPU != nil {
		p.cpu(r.CPU)
		p.cpuset(r.CPU)
	}
	if r.Memory != nil {
		p.memory(r.Memory)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		p.set("pids", "pids.max", limit(*r.Pids.Limit))
	}
	if r.BlockIO != nil {
		p.blockIO(r.BlockIO)
	}
	for _, l := range r.HugepageLimits {
		p.hugepages(l)
	}
	if r.Network != nil {
		p.network(r.Network)
	}
	for _, device := range slices.Sorted(maps.Keys(r.Rdma)) {
		p.rdma(device, r.Rdma[device])
	}
	p.unified(r.Unified)
	return p.settings, p.err
}

func (p *plan) set(controller, file, value string) {
	p.settings = append(p.settings, setting{controller: controller, file: file, value: value})
}

func (p *plan) bad(kind errs.Kind, format string, args ...any) {
	if p.err == nil {
		p.err = errs.New(kind, format, args...)
	}
}

// v2 reports whether a controller is driven by v2's files; a missing one is taken as v1's, whose write then fails and names it.
func (p *plan) v2(controller string) bool { return p.of(controller) == V2 }

// limit renders a limit of which any negative value is none.
func limit(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

const (
	minShares, maxShares = 2, 1 << 18 // cpu.shares, kernel/sched: MIN_SHARES, MAX_SHARES
	maxWeight            = 10000      // cpu.weight, CGROUP_WEIGHT_MAX
)

// WeightOf converts cpu.shares (2…262144, usual 1024) to cpu.weight (1…10000, usual 100) by the formula that runc 1.3, crun 1.23 and the kubelet
// (KEP-2254) agree on: quadratic in the logarithms, so that lowest, usual and highest values meet. 0 stays 0: not set.
func WeightOf(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return maxWeight
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// SharesOf returns the lowest cpu.shares that [WeightOf] converts to a weight: what is reported for a group on v2.
func SharesOf(weight uint64) uint64 {
	if weight == 0 {
		return 0
	}
	low, high := uint64(minShares), uint64(maxShares)
	for low < high {
		if mid := (low + high) / 2; WeightOf(mid) < weight {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

func (p *plan) cpu(c *specs.LinuxCPU) {
	idle := c.Idle != nil && *c.Idle != 0
	if c.Idle != nil {
		p.set("cpu", "cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
	if c.Shares != nil && *c.Shares != 0 && !idle { // the weight of an idle group cannot be set (EINVAL)
		if p.v2("cpu") {
			p.set("cpu", "cpu.weight", strconv.FormatUint(WeightOf(*c.Shares), 10))
		} else {
			p.set("cpu", "cpu.shares", strconv.FormatUint(*c.Shares, 10))
		}
	}
	var quota int64
	var period uint64
	if c.Quota != nil {
		quota = *c.Quota
	}
	if c.Period != nil {
		period = *c.Period
	}
	if quota < -1 {
		p.bad(errs.InvalidArgument, "CPU quota %d µs: below -1 (none)", quota)
	}
	if p.v2("cpu") {
		p.cpuMax(quota, period, c.Burst)
	} else {
		p.cfs(quota, period, c)
	}
}

// cpuMax is the ceiling on v2: one file for both. A value alone ("50000") leaves the period; a period alone ("keep 50000") is completed with the
// quota found in the file when it is written, see apply.
func (p *plan) cpuMax(quota int64, period uint64, burst *uint64) {
	q := keep
	switch {
	case quota < 0:
		q = "max"
	case quota > 0:
		q = strconv.FormatInt(quota, 10)
	}
	switch {
	case period != 0:
		p.set("cpu", "cpu.max", q+" "+strconv.FormatUint(period, 10))
	case quota != 0:
		p.set("cpu", "cpu.max", q)
	}
	if burst != nil {
		p.set("cpu", "cpu.max.burst", strconv.FormatUint(*burst, 10))
	}
}

// keep stands for the first word of the file as it is.
const keep = "keep"

func (p *plan) cfs(quota int64, period uint64, c *specs.LinuxCPU) {
	if period != 0 {
		p.set("cpu", "cpu.cfs_period_us", strconv.FormatUint(period, 10))
	}
	if quota != 0 {
		p.set("cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota, 10))
	}
	if c.Burst != nil {
		p.set("cpu", "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10))
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		p.set("cpu", "cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10))
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		p.set("cpu", "cpu.rt_runtime_us", strconv.FormatInt(*c.RealtimeRuntime, 10))
	}
}

func (p *plan) cpuset(c *specs.LinuxCPU) {
	if c.Cpus != "" {
		p.set("cpuset", "cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		p.set("cpuset", "cpuset.mems", c.Mems)
	}
}

// memory converts limits. Swap in the OCI sense is memory and swap together, as v1 counts it; v2 counts swap alone. Unlimited memory with swap
// not given means unlimited swap, on both. The kernel's own limits (kernel, kernelTCP) are ignored, as the specification allows.
func (p *plan) memory(m *specs.LinuxMemory) {
	limit, both := value(m.Limit), value(m.Swap)
	if limit < -1 || both < -1 || value(m.Reservation) < -1 {
		p.bad(errs.InvalidArgument, "memory limits %d, with swap %d, soft %d: below -1 (none)", limit, both, value(m.Reservation))
		return
	}
	if limit > 0 && both > 0 && both < limit {
		p.bad(errs.InvalidArgument, "memory and swap together %d: below memory alone, %d", both, limit)
		return
	}
	if limit == -1 && both == 0 {
		both = -1
	}
	if p.v2("memory") {
		p.memoryV2(m, limit, both)
	} else {
		p.memoryV1(m, limit, both)
	}
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func (p *plan) memoryV1(m *specs.LinuxMemory, limit, both int64) {
	if limit != 0 {
		p.set("memory", "memory.limit_in_bytes", strconv.FormatInt(limit, 10))
	}
	if both != 0 {
		p.settings = append(p.settings, setting{"memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(both, 10), both == limit || both == -1})
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		p.set("memory", "memory.soft_limit_in_bytes", strconv.FormatInt(*m.Reservation, 10))
	}
	if m.Swappiness != nil {
		if *m.Swappiness > 100 {
			p.bad(errs.InvalidArgument, "memory swappiness %d: over 100", *m.Swappiness)
		}
		p.set("memory", "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10))
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.set("memory", "memory.oom_control", "1")
	}
}

func (p *plan) memoryV2(m *specs.LinuxMemory, max, both int64) {
	// The order matters to a group with processes: swap first, so that what a lower memory.max pushes out finds the room it will have.
	switch {
	case both == 0:
	case both == -1:
		p.settings = append(p.settings, setting{"memory", "memory.swap.max", "max", true})
	case max == -1: // no memory to subtract: as it is, like runc and crun
		p.set("memory", "memory.swap.max", strconv.FormatInt(both, 10))
	case max == 0:
		p.bad(errs.InvalidArgument, "memory and swap together %d: without a memory limit to subtract, v2 cannot express it", both)
	default:
		p.settings = append(p.settings, setting{"memory", "memory.swap.max", strconv.FormatInt(both-max, 10), both == max})
	}
	if max != 0 {
		p.set("memory", "memory.max", limit(max))
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		p.set("memory", "memory.low", limit(*m.Reservation))
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.bad(errs.Unimplemented, "disable OOM killer: v2 cannot")
	}
	// Swappiness is the machine's on v2; every runtime ignores it there.
}

var pageSize = regexp.MustCompile(`^[1-9][0-9]{0,9}[KMG]B$`)

// hugepages limits huge pages of one size. The kubelet sends 0 for every size, whether or not the machine has hugetlb: without it, nothing can be
// used, which is all that a limit asks for. A size that the machine does not have is the same, for the limit 0.
func (p *plan) hugepages(l specs.LinuxHugepageLimit) {
	if !pageSize.MatchString(l.Pagesize) {
		p.bad(errs.InvalidArgument, "huge page size %q: not like 2MB", l.Pagesize)
		return
	}
	v, suffix := strconv.FormatUint(l.Limit, 10), ".limit_in_bytes"
	none := p.of("hugetlb") == 0 || l.Limit == 0
	if p.v2("hugetlb") {
		suffix = ".max"
	}
	p.settings = append(p.settings, setting{"hugetlb", "hugetlb." + l.Pagesize + suffix, v, none},
		// Reservations too (Linux 5.7), so that mmap fails rather than the first touch kills by SIGBUS.
		setting{"hugetlb", "hugetlb." + l.Pagesize + ".rsvd" + suffix, v, true})
}

func (p *plan) network(n *specs.LinuxNetwork) {
	if n.ClassID != nil {
		p.set("net_cls", "net_cls.classid", strconv.FormatUint(uint64(*n.ClassID), 10))
	}
	for _, i := range n.Priorities {
		p.set("net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", i.Name, i.Priority))
	}
}

func (p *plan) rdma(device string, r specs.LinuxRdma) {
	words := []string{device}
	if r.HcaHandles != nil {
		words = append(words, fmt.Sprintf("hca_handle=%d", *r.HcaHandles))
	}
	if r.HcaObjects != nil {
		words = append(words, fmt.Sprintf("hca_object=%d", *r.HcaObjects))
	}
	p.set("rdma", "rdma.max", strings.Join(words, " "))
}

// unifiedFile is what a unified resource may be called: a controller's file, or one of the core's that limits (cgroup.max.*, cgroup.pressure) but
// none that moves, freezes or kills.
var unifiedFile = regexp.MustCompile(`^(([a-z]+)\.[A-Za-z0-9_.]+)$`)

// unified passes files of v2 literally, in the order of their names, a value of several lines in as many writes.
func (p *plan) unified(files map[string]string) {
	for _, file := range slices.Sorted(maps.Keys(files)) {
		match := unifiedFile.FindStringSubmatch(file)
		if match == nil || match[2] == "cgroup" && !strings.HasPrefix(file, "cgroup.max.") && file != "cgroup.pressure" {
			p.bad(errs.InvalidArgument, "unified resource %q: not a file that limits", file)
			return
		}
		controller := match[2]
		if !p.v2(controller) && controller != "cgroup" {
			p.bad(errs.InvalidArgument, "unified resource %q: controller %s is not on v2 on this machine", file, controller)
			return
		}
		for line := range strings.Lines(files[file]) {
			p.set(controller, file, strings.TrimSuffix(line, "\n"))
		}
	}
}
