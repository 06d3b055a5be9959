package stats

import "fermata/internal/cgroup"

// table is every metric (MET-3), by subject and name.
var table = []metric{
	{"blkio_device_usage_total", "Bytes transferred to and from block devices, by operation.", counter, OfContainer, []string{"device", "major", "minor", "operation"}, deviceUsage},

	{"cpu_cfs_periods_total", "Scheduling periods in which the container could have met its CPU quota.", counter, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.CPU.Periods })},
	{"cpu_cfs_throttled_periods_total", "Scheduling periods in which the container met its CPU quota.", counter, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.CPU.Throttled })},
	{"cpu_cfs_throttled_seconds_total", "Time the container waited because of its CPU quota, in seconds.", counter, OfContainer, nil, one(func(f *Figures) uint64 { return seconds(f.Group.CPU.ThrottledTime) })},
	{"cpu_system_seconds_total", "CPU time used in the kernel, in seconds.", counter, OfContainer, nil, one(func(f *Figures) uint64 { return seconds(f.Group.CPU.System) })},
	{"cpu_usage_seconds_total", "CPU time used, in seconds; cpu is always total.", counter, OfContainer, []string{"cpu"}, func(f *Figures) []sample { return []sample{{[]string{"total"}, seconds(f.Group.CPU.Usage)}} }},
	{"cpu_user_seconds_total", "CPU time used outside the kernel, in seconds.", counter, OfContainer, nil, one(func(f *Figures) uint64 { return seconds(f.Group.CPU.User) })},

	{"file_descriptors", "File descriptors open in the container's processes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Processes.FileDescriptors })},

	{"fs_inodes_free", "Free inodes of the file system that the writable layer lies on.", gauge, OfContainer, []string{"device"}, onFilesystem(func(f *Figures) uint64 { return f.Filesystem.InodesFree })},
	{"fs_inodes_total", "Inodes of the file system that the writable layer lies on.", gauge, OfContainer, []string{"device"}, onFilesystem(func(f *Figures) uint64 { return f.Filesystem.InodesTotal })},
	{"fs_limit_bytes", "Size of the file system that the writable layer lies on, in bytes.", gauge, OfContainer, []string{"device"}, onFilesystem(func(f *Figures) uint64 { return f.Filesystem.Limit })},
	{"fs_reads_bytes_total", "Bytes read from block devices.", counter, OfContainer, []string{"device"}, perDevice(func(d *cgroup.IO) uint64 { return d.ReadBytes })},
	{"fs_reads_total", "Reads from block devices.", counter, OfContainer, []string{"device"}, perDevice(func(d *cgroup.IO) uint64 { return d.ReadOps })},
	{"fs_usage_bytes", "Bytes that the writable layer takes on disk.", gauge, OfContainer, []string{"device"}, onFilesystem(func(f *Figures) uint64 { return f.Layer.Bytes })},
	{"fs_writes_bytes_total", "Bytes written to block devices.", counter, OfContainer, []string{"device"}, perDevice(func(d *cgroup.IO) uint64 { return d.WriteBytes })},
	{"fs_writes_total", "Writes to block devices.", counter, OfContainer, []string{"device"}, perDevice(func(d *cgroup.IO) uint64 { return d.WriteOps })},

	{"hugetlb_max_usage_bytes", "Highest use of huge pages seen, in bytes, by page size; 0 where the kernel does not keep it (cgroup v2).", gauge, OfContainer, []string{"pagesize"}, perPageSize(func(h cgroup.Hugetlb) uint64 { return h.MaxUsage })},
	{"hugetlb_usage_bytes", "Huge pages in use, in bytes, by page size.", gauge, OfContainer, []string{"pagesize"}, perPageSize(func(h cgroup.Hugetlb) uint64 { return h.Usage })},

	{"last_seen", "When the container was seen last, in seconds since 1970.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return uint64(f.Now.Unix()) })},

	{"memory_cache", "Page cache, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.Cache })},
	{"memory_failcnt", "How often memory use met its limit.", counter, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.LimitHits })},
	{"memory_failures_total", "Page faults: all (pgfault), and those that read from disk (pgmajfault).", counter, OfContainer, []string{"failure_type", "scope"}, failures},
	{"memory_kernel_usage", "Memory that the kernel keeps for the container, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.Kernel })},
	{"memory_mapped_file", "Page cache that is mapped, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.Mapped })},
	{"memory_max_usage_bytes", "Highest memory use seen, in bytes; 0 where the kernel does not keep it (cgroup v2 before Linux 5.19).", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.MaxUsage })},
	{"memory_rss", "Anonymous memory, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.RSS })},
	{"memory_swap", "Swap in use, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Swap.Usage })},
	{"memory_total_active_file_bytes", "Page cache that has been used lately, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.ActiveFile })},
	{"memory_total_inactive_file_bytes", "Page cache that has not been used lately, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.InactiveFile })},
	{"memory_usage_bytes", "Memory in use, with page cache, in bytes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.Usage })},
	{"memory_working_set_bytes", "Memory in use without page cache that has not been used lately, in bytes; what eviction goes by.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.WorkingSet })},

	{"network_receive_bytes_total", "Bytes received.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.RxBytes })},
	{"network_receive_errors_total", "Errors in receiving.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.RxErrors })},
	{"network_receive_packets_dropped_total", "Packets dropped in receiving.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.RxDropped })},
	{"network_receive_packets_total", "Packets received.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.RxPackets })},
	{"network_transmit_bytes_total", "Bytes sent.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.TxBytes })},
	{"network_transmit_errors_total", "Errors in sending.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.TxErrors })},
	{"network_transmit_packets_dropped_total", "Packets dropped in sending.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.TxDropped })},
	{"network_transmit_packets_total", "Packets sent.", counter, OfPod, []string{"interface"}, perInterface(func(i *Interface) uint64 { return i.TxPackets })},

	{"oom_events_total", "Processes of the container that the kernel ended for want of memory.", counter, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.OOMKills })},

	{"pressure_cpu_stalled_seconds_total", "Time in which all tasks of the container waited for a CPU, in seconds.", counter, OfContainer, nil, waited(onCPU, full)},
	{"pressure_cpu_waiting_seconds_total", "Time in which some task of the container waited for a CPU, in seconds.", counter, OfContainer, nil, waited(onCPU, some)},
	{"pressure_io_stalled_seconds_total", "Time in which all tasks of the container waited for I/O, in seconds.", counter, OfContainer, nil, waited(onIO, full)},
	{"pressure_io_waiting_seconds_total", "Time in which some task of the container waited for I/O, in seconds.", counter, OfContainer, nil, waited(onIO, some)},
	{"pressure_memory_stalled_seconds_total", "Time in which all tasks of the container waited for memory, in seconds.", counter, OfContainer, nil, waited(onMemory, full)},
	{"pressure_memory_waiting_seconds_total", "Time in which some task of the container waited for memory, in seconds.", counter, OfContainer, nil, waited(onMemory, some)},

	{"processes", "Processes of the container.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Processes.Count })},
	{"sockets", "Sockets open in the container's processes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Processes.Sockets })},

	{"spec_cpu_period", "Length of a CPU scheduling period, in microseconds.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.CPU.Period })},
	{"spec_cpu_quota", "CPU time the container may use in a period, in microseconds; absent without a ceiling.", gauge, OfContainer, nil, quota},
	{"spec_cpu_shares", "Relative CPU weight of the container.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.CPU.Shares })},
	{"spec_memory_limit_bytes", "Memory limit, in bytes; 0 is none.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.Limit })},
	{"spec_memory_reservation_limit_bytes", "Memory that is reclaimed last, in bytes; 0 is none.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Memory.Reservation })},
	{"spec_memory_swap_limit_bytes", "Swap limit, without memory, in bytes; 0 is none, or no swap.", gauge, OfContainer, nil, one(swapLimit)},

	{"start_time_seconds", "When the container started, in seconds since 1970.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return uint64(f.Started.Unix()) })},
	{"threads", "Threads of the container's processes.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Pids.Current })},
	{"threads_max", "Most threads the container may have; 0 is no limit.", gauge, OfContainer, nil, one(func(f *Figures) uint64 { return f.Group.Pids.Limit })},
	{"ulimits_soft", "Soft limit of the container's first process.", gauge, OfContainer, []string{"ulimit"}, softLimits},
}
