package cgroup

import "time"

// Stats are one group's figures at one moment. A figure the machine does not offer is zero, or nil where it is a pointer.
type Stats struct {
	// Time is when the figures were read.
	Time   time.Time
	CPU    CPU
	Memory Memory
	Swap   Swap
	Pids   Pids
	// Hugetlb is by page size ("2MB"), only sizes the machine has.
	Hugetlb map[string]Hugetlb
	// IO is by device; on v1 only what the block layer's throttling counts.
	IO []IO
	// IOPressure is PSI of I/O. Pressure is measured in the v2 hierarchy, which a hybrid machine has too.
	IOPressure *Pressure
}

// CPU is time spent on processors, in nanoseconds, since the group was made.
type CPU struct {
	Usage, User, System uint64
	// Shares is cpu.shares on v1, and what a cpu.weight stands for on v2.
	Shares uint64
	// Quota and Period are the ceiling in microseconds; Quota -1: none.
	Quota  int64
	Period uint64
	// Periods, Throttled and ThrottledTime count CFS periods, those in which the group met its quota, and the time it waited.
	Periods, Throttled, ThrottledTime uint64
	Pressure                          *Pressure
}

// Memory is memory charged to the group, in bytes.
type Memory struct {
	Usage uint64
	// WorkingSet is Usage less inactive file pages, as the kubelet's eviction reckons.
	WorkingSet uint64
	// RSS is anonymous memory: total_rss (v1), anon (v2).
	RSS uint64
	// Cache is page cache, Mapped the part of it that is mapped, Kernel what the kernel keeps for the group.
	Cache, Mapped, Kernel uint64
	// ActiveFile and InactiveFile are the page cache used lately, and not.
	ActiveFile, InactiveFile uint64
	// MaxUsage is the highest Usage seen; v2 since Linux 5.19.
	MaxUsage uint64
	// Limit is 0 when there is none.
	Limit uint64
	// Reservation is the soft limit (v1) or memory.low (v2); 0 when there is none.
	Reservation uint64
	// Available is Limit less WorkingSet; nil when there is no limit.
	Available *uint64
	// PageFaults and MajorPageFaults count since the group was made.
	PageFaults, MajorPageFaults uint64
	// LimitHits counts how often the limit was met (failcnt, memory.events max).
	LimitHits uint64
	// OOMKills counts processes of the group ended by the kernel for want of memory.
	OOMKills uint64
	Pressure *Pressure
}

// Swap is swap used by the group, in bytes, without memory.
type Swap struct {
	Usage uint64
	// Limit is 0 when no swap may be used and nil when there is no limit or no swap accounting.
	Limit *uint64
	// Accounted is false where the kernel does not count swap by group.
	Accounted bool
}

// Pids counts processes and threads.
type Pids struct {
	Current uint64
	// Limit is 0 when there is none.
	Limit uint64
}

// Hugetlb is huge pages of one size, in bytes.
type Hugetlb struct{ Usage, MaxUsage uint64 }

// IO is traffic of one block device.
type IO struct {
	Major, Minor                             uint64
	ReadBytes, WriteBytes, ReadOps, WriteOps uint64
}

// Pressure is pressure stall information: shares of time in which some, or all, tasks of the group waited.
type Pressure struct{ Some, Full PressureLine }

// PressureLine is one line of a *.pressure file.
type PressureLine struct {
	// Avg10, Avg60 and Avg300 are percentages over the last seconds.
	Avg10, Avg60, Avg300 float64
	// Total is nanoseconds since the group was made.
	Total uint64
}
