package pod

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/stats"
)

// ListPodSandboxMetrics returns the metrics (§6.3) of every ready pod and its running containers. What ends meanwhile is left out.
func (m *Manager) ListPodSandboxMetrics() ([]*runtimeapi.PodSandboxMetrics, error) {
	space, err := stats.MeasureFilesystem(m.Root)
	if err != nil {
		return nil, err
	}
	traffic := m.counters()
	return readPods(m, nil, func(p *Pod, r *PodRecord) (*runtimeapi.PodSandboxMetrics, error) {
		return m.podMetrics(p, r, &stats.Figures{Filesystem: space, Interfaces: traffic[p.id]}), nil
	}), nil
}

// podContainer is what a pod's own metrics have for a container's name, as cAdvisor's.
const podContainer = "POD"

func (m *Manager) podMetrics(p *Pod, r *PodRecord, f *stats.Figures) *runtimeapi.PodSandboxMetrics {
	md := r.Config.M.GetMetadata()
	labels := stats.Labels{
		Container: podContainer, ID: r.Cgroup, Image: m.SandboxImage, Name: r.ID, Namespace: md.GetNamespace(), Pod: md.GetName(),
	}
	all := &runtimeapi.PodSandboxMetrics{PodSandboxId: r.ID, Metrics: stats.Metrics(stats.OfPod, &labels, f)}
	for _, c := range p.runningContainers() {
		cr := c.snapshot()
		labels.Container, labels.ID, labels.Image, labels.Name = cr.Config.M.GetMetadata().GetName(), cr.Cgroup, cr.ImageName, cr.ID
		if one, err := m.containerMetrics(c, &cr, &labels, f.Filesystem); err == nil { // otherwise it ended meanwhile
			all.ContainerMetrics = append(all.ContainerMetrics, one)
		}
	}
	return all
}

func (m *Manager) containerMetrics(c *Container, r *ContainerRecord, labels *stats.Labels, space stats.Filesystem) (*runtimeapi.ContainerMetrics, error) {
	group := m.Cgroups.Group(r.Cgroup)
	figures, err := group.Stats()
	if err != nil {
		return nil, err
	}
	pids, err := group.Processes()
	if err != nil {
		return nil, err
	}
	layer, err := m.layerUsage(c, r)
	if err != nil {
		return nil, err
	}
	f := &stats.Figures{
		Now: time.Now(), Started: r.Started, Group: figures, Processes: stats.MeasureProcesses("/proc", pids, r.Process.PID), Layer: layer, Filesystem: space,
	}
	return &runtimeapi.ContainerMetrics{ContainerId: r.ID, Metrics: stats.Metrics(stats.OfContainer, labels, f)}, nil
}
