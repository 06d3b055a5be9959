package pod

import (
	"path/filepath"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/stats"
)

// layerUsage is the cached size of a container's writable layer.
type layerUsage = stats.Cache

// ContainerStats returns a running container's figures (§6.1).
func (m *Manager) ContainerStats(id string) (*runtimeapi.ContainerStats, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return nil, err
	}
	r := c.snapshot()
	if r.State != StateRun {
		return nil, errs.New(errs.FailedPrecondition, "stats of container %s: it is %s, not running", c.id, r.State)
	}
	return m.containerStats(c, &r)
}

// ListContainerStats returns the figures of the running containers a filter selects (nil: all). One that ends meanwhile is left out.
func (m *Manager) ListContainerStats(filter *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	selected := m.selectContainers(filter.GetId(), filter.GetPodSandboxId(), filter.GetLabelSelector())
	found := make([]*runtimeapi.ContainerStats, len(selected))
	var wg sync.WaitGroup
	slots := make(chan struct{}, statsAtOnce)
	for i, c := range selected {
		r := c.snapshot()
		if r.State != StateRun {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if s, err := m.containerStats(c, &r); err == nil {
				found[i] = s
			}
		})
	}
	wg.Wait()
	list := []*runtimeapi.ContainerStats{}
	for _, s := range found {
		if s != nil {
			list = append(list, s)
		}
	}
	return list
}

// statsAtOnce bounds the readers of one call: cgroup files are read in the kernel's time, not in ours.
const statsAtOnce = 8

func (m *Manager) containerStats(c *Container, r *ContainerRecord) (*runtimeapi.ContainerStats, error) {
	figures, err := m.Cgroups.Group(r.Cgroup).Stats()
	if err != nil {
		return nil, err
	}
	s := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: r.ID, Metadata: r.Config.M.GetMetadata(), Labels: r.Config.M.GetLabels(), Annotations: r.Config.M.GetAnnotations(),
		},
	}
	fillCgroup(s, &figures)
	upper := filepath.Join(m.containerDir(r), "upper")
	usage, err := c.layer.Of(upper)
	if err != nil {
		return nil, err
	}
	s.WritableLayer = &runtimeapi.FilesystemUsage{
		Timestamp: usage.Time.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: m.Root},
		UsedBytes: value(usage.Bytes), InodesUsed: value(usage.Inodes),
	}
	return s, nil
}

// fillCgroup writes a cgroup's figures in the CRI's form.
func fillCgroup(s *runtimeapi.ContainerStats, f *cgroup.Stats) {
	at := f.Time.UnixNano()
	s.Cpu = &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: value(f.CPU.Usage)}
	s.Memory = &runtimeapi.MemoryUsage{
		Timestamp: at, WorkingSetBytes: value(f.Memory.WorkingSet), UsageBytes: value(f.Memory.Usage), RssBytes: value(f.Memory.RSS),
		PageFaults: value(f.Memory.PageFaults), MajorPageFaults: value(f.Memory.MajorPageFaults),
	}
	if f.Memory.Available != nil {
		s.Memory.AvailableBytes = value(*f.Memory.Available)
	}
	if f.Swap.Accounted {
		s.Swap = &runtimeapi.SwapUsage{Timestamp: at, SwapUsageBytes: value(f.Swap.Usage)}
		if f.Swap.Limit != nil {
			s.Swap.SwapAvailableBytes = value(*f.Swap.Limit - min(f.Swap.Usage, *f.Swap.Limit))
		}
	}
}

func value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
