package stats

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
)

// Interface is traffic of one network interface of a pod, as the pod sees it, since the interface was made.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Network gives a pod's traffic in the CRI's form; the first interface is the default one. Nil of a pod without interfaces of its own.
func Network(at time.Time, all []Interface) *runtimeapi.NetworkUsage {
	if len(all) == 0 {
		return nil
	}
	u := &runtimeapi.NetworkUsage{Timestamp: at.UnixNano()}
	for i, f := range all {
		one := &runtimeapi.NetworkInterfaceUsage{
			Name: f.Name, RxBytes: value(f.RxBytes), RxErrors: value(f.RxErrors), TxBytes: value(f.TxBytes), TxErrors: value(f.TxErrors),
		}
		if i == 0 {
			u.DefaultInterface = one
		} else {
			u.Interfaces = append(u.Interfaces, one)
		}
	}
	return u
}

// Group is a control group's figures in the CRI's form; what the machine does not offer is nil.
type Group struct {
	CPU     *runtimeapi.CpuUsage
	Memory  *runtimeapi.MemoryUsage
	Swap    *runtimeapi.SwapUsage
	IO      *runtimeapi.IoUsage
	Process *runtimeapi.ProcessUsage
}

// OfGroup converts a group's figures (§6.1); nanoCores is its rate, nil if unknown. Processes are counted with their threads, as the pids controller does.
func OfGroup(f *cgroup.Stats, nanoCores *uint64) Group {
	at := f.Time.UnixNano()
	g := Group{
		CPU: &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: value(f.CPU.Usage), UsageNanoCores: optional(nanoCores), Psi: pressure(f.CPU.Pressure)},
		Memory: &runtimeapi.MemoryUsage{
			Timestamp: at, WorkingSetBytes: value(f.Memory.WorkingSet), UsageBytes: value(f.Memory.Usage), RssBytes: value(f.Memory.RSS),
			PageFaults: value(f.Memory.PageFaults), MajorPageFaults: value(f.Memory.MajorPageFaults),
			AvailableBytes: optional(f.Memory.Available), Psi: pressure(f.Memory.Pressure),
		},
		Process: &runtimeapi.ProcessUsage{Timestamp: at, ProcessCount: value(f.Pids.Current)},
	}
	if f.Swap.Accounted {
		g.Swap = &runtimeapi.SwapUsage{Timestamp: at, SwapUsageBytes: value(f.Swap.Usage)}
		if f.Swap.Limit != nil {
			g.Swap.SwapAvailableBytes = value(*f.Swap.Limit - min(f.Swap.Usage, *f.Swap.Limit))
		}
	}
	if f.IOPressure != nil {
		g.IO = &runtimeapi.IoUsage{Timestamp: at, Psi: pressure(f.IOPressure)}
	}
	return g
}

// Add adds another group's use, for a pod whose groups have no parent of their own. Limits and pressure are not added: there is no such sum.
func Add(sum, more *cgroup.Stats) {
	sum.Time = more.Time
	sum.CPU = cgroup.CPU{Usage: sum.CPU.Usage + more.CPU.Usage}
	a, b := &sum.Memory, &more.Memory
	sum.Memory = cgroup.Memory{
		Usage: a.Usage + b.Usage, WorkingSet: a.WorkingSet + b.WorkingSet, RSS: a.RSS + b.RSS,
		PageFaults: a.PageFaults + b.PageFaults, MajorPageFaults: a.MajorPageFaults + b.MajorPageFaults,
	}
	sum.Swap = cgroup.Swap{Accounted: more.Swap.Accounted, Usage: sum.Swap.Usage + more.Swap.Usage}
	sum.Pids = cgroup.Pids{Current: sum.Pids.Current + more.Pids.Current}
	sum.IOPressure = nil
}

// pressure is PSI in the CRI's form: percentages, and nanoseconds.
func pressure(p *cgroup.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: l.Total, Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}

// Layer is a writable layer's use in the CRI's form; mountpoint is on the file system it lies on.
func Layer(u Usage, mountpoint string) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp: u.Time.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: mountpoint}, UsedBytes: value(u.Bytes), InodesUsed: value(u.Inodes),
	}
}

func value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

func optional(v *uint64) *runtimeapi.UInt64Value {
	if v == nil {
		return nil
	}
	return value(*v)
}
