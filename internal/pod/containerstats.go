package pod

import (
	"path/filepath"
	"slices"
	"strings"

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
	one, _, err := m.containerStats(c, &r)
	return one, err
}

// ListContainerStats returns the figures of the running containers a filter selects (nil: all). One that ends meanwhile is left out.
func (m *Manager) ListContainerStats(filter *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	selected := m.selectContainers(filter.GetId(), filter.GetPodSandboxId(), filter.GetLabelSelector())
	slices.SortFunc(selected, func(a, b *Container) int { return strings.Compare(a.id, b.id) })
	found := make([]*runtimeapi.ContainerStats, len(selected))
	atOnce(len(selected), func(i int) {
		r := selected[i].snapshot()
		if r.State != StateRun {
			return
		}
		if s, _, err := m.containerStats(selected[i], &r); err == nil {
			found[i] = s
		}
	})
	return slices.DeleteFunc(found, func(s *runtimeapi.ContainerStats) bool { return s == nil })
}

// containerStats reads a running container's figures, for the CRI and as they are.
func (m *Manager) containerStats(c *Container, r *ContainerRecord) (*runtimeapi.ContainerStats, *cgroup.Stats, error) {
	figures, rate, err := m.usage(meterKey{r.Cgroup, false}, r.Cgroup)
	if err != nil {
		return nil, nil, err
	}
	layer, err := m.layerUsage(c, r)
	if err != nil {
		return nil, nil, err
	}
	g := stats.OfGroup(&figures, rate)
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: r.ID, Metadata: r.Config.M.GetMetadata(), Labels: r.Config.M.GetLabels(), Annotations: r.Config.M.GetAnnotations(),
		},
		Cpu: g.CPU, Memory: g.Memory, Swap: g.Swap, Io: g.IO, WritableLayer: stats.Layer(layer, m.Root),
	}, &figures, nil
}

// layerUsage is the size of a container's writable layer, measured a moment ago.
func (m *Manager) layerUsage(c *Container, r *ContainerRecord) (stats.Usage, error) {
	return c.layer.Of(filepath.Join(m.containerDir(r), "upper"))
}
