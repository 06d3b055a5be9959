package cgroup

import (
	"slices"
	"strconv"
	"strings"
)

// mount is one line of mountinfo that matters here.
type mount struct {
	path        string
	version     Mode     // V1 or V2
	controllers []string // of v1; v2 tells them in cgroup.controllers
}

// known are the v1 controllers; every other word among a mount's options is an option. Those of which a group in its own right makes no
// sense here (cpu accounting debug, …) have no name.
var known = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"}

// parseMounts finds the control group file systems in /proc/PID/mountinfo (proc_pid_mountinfo(5)), those below /sys/fs/cgroup first. Lines it
// cannot read are not of interest.
func parseMounts(mountinfo string) []mount {
	var mounts []mount
	for line := range strings.Lines(mountinfo) {
		// 36 35 0:31 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields, rest := strings.Split(before, " "), strings.Split(after, " ")
		if !ok || len(fields) < 6 || len(rest) < 3 {
			continue
		}
		m := mount{path: unescape(fields[4])}
		switch rest[0] {
		case "cgroup2":
			m.version = V2
		case "cgroup":
			m.version = V1
			for _, o := range strings.Split(rest[2], ",") {
				if slices.Contains(known, o) || strings.HasPrefix(o, "name=") {
					m.controllers = append(m.controllers, o)
				}
			}
		default:
			continue
		}
		if m.version == V1 && len(m.controllers) == 0 {
			continue
		}
		mounts = append(mounts, m)
	}
	const home = "/sys/fs/cgroup"
	slices.SortStableFunc(mounts, func(a, b mount) int {
		return strings.Compare(strconv.FormatBool(!strings.HasPrefix(a.path, home)), strconv.FormatBool(!strings.HasPrefix(b.path, home)))
	})
	return mounts
}

// unescape undoes mountinfo's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
