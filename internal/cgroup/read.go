package cgroup

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"fermata/internal/errs"
)

// Stats reads the group's figures. A file the machine does not have leaves its figures zero; a group that does not exist is NotFound. For an exec
// group, ask the container's.
func (g *Group) Stats() (Stats, error) {
	if g.err != nil {
		return Stats{}, g.err
	}
	s := Stats{Time: time.Now()}
	for _, part := range []struct {
		controller string
		v1, v2     func(*reader, *Stats)
	}{
		{"cpu", cpuV1, cpuV2},
		{"cpuacct", cpuacctV1, nil}, // on v2 the core accounts, see below
		{"memory", memoryV1, memoryV2},
		{"pids", pids, pids},
		{"hugetlb", hugetlb, hugetlb},
		{"blkio", blkioV1, nil},
		{"io", nil, ioV2},
	} {
		h := g.tree.with(part.controller)
		if h == nil {
			continue
		}
		r := &reader{h: h, rel: g.rel}
		if h.version == V2 {
			part.v2(r, &s)
		} else {
			part.v1(r, &s)
		}
		if r.err == nil && r.missed != nil && !h.exists(g.rel) {
			r.err = r.missed
		}
		if r.err != nil {
			return Stats{}, fmt.Errorf("read control group %s: %w", g.Path(), r.err)
		}
	}
	if g.tree.mode == V2 && g.tree.with("cpu") == nil { // cpu.stat is there without the controller
		cpuV2(&reader{h: g.tree.unified, rel: g.rel}, &s)
	}
	if g.tree.unified != nil {
		pressures(&reader{h: g.tree.unified, rel: g.rel}, &s)
	}
	return s, nil
}

// reader reads files of one group in one hierarchy, and keeps the first error.
type reader struct {
	h      *hierarchy
	rel    string
	err    error
	missed error // the first file that was not there
	// meter keeps the files open; nil opens and closes each.
	meter *Meter
}

func (r *reader) text(file string) string {
	if r.err != nil {
		return ""
	}
	var s string
	var err error
	if r.meter != nil {
		s, err = r.meter.text(r.h, r.rel, file)
	} else {
		s, err = r.h.read(r.rel, file)
	}
	switch {
	case errs.Is(err, errs.NotFound):
		if r.missed == nil {
			r.missed = err
		}
	case err != nil && !unsupported(err):
		r.err = err
	}
	return s
}

func (r *reader) flat(file string) map[string]uint64 { return flat(r.text(file)) }

// number reads a file of one figure, 0 if it is not there.
func (r *reader) number(file string) uint64 {
	s := r.text(file)
	if s == "" {
		return 0
	}
	n, err := number(s)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", file, err)
	}
	return n
}

// limit is number with "none" as 0.
func (r *reader) limit(file string) uint64 {
	n := r.number(file)
	if n == unlimited {
		return 0
	}
	return n
}

func cpuV1(r *reader, s *Stats) {
	c := &s.CPU
	c.Shares = r.number("cpu.shares")
	c.Period = r.number("cpu.cfs_period_us")
	c.Quota = quota(r.number("cpu.cfs_quota_us"))
	stat := r.flat("cpu.stat")
	c.Periods, c.Throttled, c.ThrottledTime = stat["nr_periods"], stat["nr_throttled"], stat["throttled_time"]
}

func cpuacctV1(r *reader, s *Stats) {
	// Sampled at the tick, unlike usage; the sum differs.
	s.CPU.Usage, s.CPU.User, s.CPU.System = r.number("cpuacct.usage"), r.number("cpuacct.usage_user"), r.number("cpuacct.usage_sys")
}

const microsecond = uint64(time.Microsecond)

func cpuV2(r *reader, s *Stats) {
	c := &s.CPU
	c.Shares = SharesOf(r.number("cpu.weight"))
	if q, p, ok := strings.Cut(r.text("cpu.max"), " "); ok {
		n, _ := number(q)
		c.Quota = quota(n)
		c.Period, _ = number(p)
	}
	stat := r.flat("cpu.stat")
	c.Usage, c.User, c.System = stat["usage_usec"]*microsecond, stat["user_usec"]*microsecond, stat["system_usec"]*microsecond
	c.Periods, c.Throttled, c.ThrottledTime = stat["nr_periods"], stat["nr_throttled"], stat["throttled_usec"]*microsecond
}

func quota(n uint64) int64 {
	if n > math.MaxInt64 {
		return -1
	}
	return int64(n)
}

func memoryV1(r *reader, s *Stats) {
	m := &s.Memory
	m.Usage, m.MaxUsage = r.number("memory.usage_in_bytes"), r.number("memory.max_usage_in_bytes")
	m.Limit, m.Reservation = r.limit("memory.limit_in_bytes"), r.limit("memory.soft_limit_in_bytes")
	m.LimitHits, m.Kernel = r.number("memory.failcnt"), r.number("memory.kmem.usage_in_bytes")
	m.OOMKills = r.flat("memory.oom_control")["oom_kill"]
	stat := r.flat("memory.stat")
	m.RSS, m.Cache, m.Mapped = stat["total_rss"], stat["total_cache"], stat["total_mapped_file"]
	m.ActiveFile, m.InactiveFile = stat["total_active_file"], stat["total_inactive_file"]
	m.PageFaults, m.MajorPageFaults = stat["total_pgfault"], stat["total_pgmajfault"]
	m.derive(m.InactiveFile)
	// Swap alone is in memory.stat only if the kernel counts it; the limit is on memory and swap together.
	if used, ok := stat["total_swap"]; ok {
		s.Swap.Accounted, s.Swap.Usage = true, used
		if both := r.limit("memory.memsw.limit_in_bytes"); both != 0 {
			free := both - min(both, m.Limit)
			s.Swap.Limit = &free
		}
	}
}

func memoryV2(r *reader, s *Stats) {
	m := &s.Memory
	m.Usage, m.MaxUsage = r.number("memory.current"), r.number("memory.peak")
	m.Limit, m.Reservation = r.limit("memory.max"), r.limit("memory.low")
	events := r.flat("memory.events")
	m.LimitHits, m.OOMKills = events["max"], events["oom_kill"]
	stat := r.flat("memory.stat")
	m.RSS, m.Cache, m.Mapped, m.Kernel = stat["anon"], stat["file"], stat["file_mapped"], stat["kernel"]
	if m.Kernel == 0 { // before Linux 5.18: its parts
		m.Kernel = stat["kernel_stack"] + stat["pagetables"] + stat["percpu"] + stat["slab"]
	}
	m.PageFaults, m.MajorPageFaults = stat["pgfault"], stat["pgmajfault"]
	m.ActiveFile, m.InactiveFile = stat["active_file"], stat["inactive_file"]
	m.derive(m.InactiveFile)
	if max := r.text("memory.swap.max"); max != "" {
		s.Swap.Accounted, s.Swap.Usage = true, r.number("memory.swap.current")
		if n, err := number(max); err == nil && n != unlimited {
			s.Swap.Limit = &n
		}
	}
}

// derive computes what the kubelet evicts by.
func (m *Memory) derive(inactiveFile uint64) {
	m.WorkingSet = m.Usage - min(m.Usage, inactiveFile)
	if m.Limit != 0 {
		left := m.Limit - min(m.Limit, m.WorkingSet)
		m.Available = &left
	}
}

func pids(r *reader, s *Stats) {
	s.Pids = Pids{Current: r.number("pids.current"), Limit: r.limit("pids.max")}
}

// hugetlb reads the sizes the machine has; the files are named alike but for the ends.
func hugetlb(r *reader, s *Stats) {
	usage, highest := ".usage_in_bytes", ".max_usage_in_bytes"
	if r.h.version == V2 {
		usage, highest = ".current", "" // v2 keeps no maximum
	}
	for _, size := range pageSizes() {
		text := r.text("hugetlb." + size + usage)
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil { // not this size, or not handed down to the group
			continue
		}
		if s.Hugetlb == nil {
			s.Hugetlb = map[string]Hugetlb{}
		}
		h := Hugetlb{Usage: n}
		if highest != "" {
			h.MaxUsage = r.number("hugetlb." + size + highest)
		}
		s.Hugetlb[size] = h
	}
}

func blkioV1(r *reader, s *Stats) {
	devices := map[[2]uint64]*IO{}
	for file, pick := range map[string]func(*IO) (read, write *uint64){
		"blkio.throttle.io_service_bytes_recursive": func(d *IO) (*uint64, *uint64) { return &d.ReadBytes, &d.WriteBytes },
		"blkio.throttle.io_serviced_recursive":      func(d *IO) (*uint64, *uint64) { return &d.ReadOps, &d.WriteOps },
	} {
		for line := range strings.Lines(r.text(file)) { // "8:0 Read 4096"
			f := strings.Fields(line)
			if len(f) != 3 {
				continue
			}
			d := ioDevice(devices, f[0])
			n, err := strconv.ParseUint(f[2], 10, 64)
			if d == nil || err != nil {
				continue
			}
			read, write := pick(d)
			switch f[1] {
			case "Read":
				*read = n
			case "Write":
				*write = n
			}
		}
	}
	s.IO = sortedIO(devices)
}

func ioV2(r *reader, s *Stats) {
	devices := map[[2]uint64]*IO{}
	for line := range strings.Lines(r.text("io.stat")) { // "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0"
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		d := ioDevice(devices, f[0])
		if d == nil {
			continue
		}
		for _, pair := range f[1:] {
			key, text, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.ReadOps = n
			case "wios":
				d.WriteOps = n
			}
		}
	}
	s.IO = sortedIO(devices)
}

// ioDevice finds or adds the device "8:0"; nil if it is none.
func ioDevice(devices map[[2]uint64]*IO, name string) *IO {
	a, b, _ := strings.Cut(name, ":")
	major, err := strconv.ParseUint(a, 10, 32)
	if err != nil {
		return nil
	}
	minor, err := strconv.ParseUint(b, 10, 32)
	if err != nil {
		return nil
	}
	key := [2]uint64{major, minor}
	if devices[key] == nil {
		devices[key] = &IO{Major: major, Minor: minor}
	}
	return devices[key]
}

func sortedIO(devices map[[2]uint64]*IO) []IO {
	var list []IO
	for _, d := range devices {
		list = append(list, *d)
	}
	slices.SortFunc(list, func(a, b IO) int { return int(a.Major-b.Major)<<20 + int(a.Minor-b.Minor) })
	return list
}

// pressure reads a PSI file; nil where the kernel has none (CONFIG_PSI, psi=0 says so by EOPNOTSUPP).
func (r *reader) pressure(file string) *Pressure {
	text := r.text(file)
	if text == "" {
		return nil
	}
	p := &Pressure{}
	for line := range strings.Lines(text) { // "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", total in µs
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var l PressureLine
		for _, pair := range f[1:] {
			key, text, _ := strings.Cut(pair, "=")
			switch key {
			case "avg10":
				l.Avg10, _ = strconv.ParseFloat(text, 64)
			case "avg60":
				l.Avg60, _ = strconv.ParseFloat(text, 64)
			case "avg300":
				l.Avg300, _ = strconv.ParseFloat(text, 64)
			case "total":
				n, _ := strconv.ParseUint(text, 10, 64)
				l.Total = n * microsecond
			}
		}
		switch f[0] {
		case "some":
			p.Some = l
		case "full":
			p.Full = l
		}
	}
	return p
}
