package pod

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/stats"
)

// networkCounter is a [Network] that counts traffic.
type networkCounter interface {
	// Counters gives the interfaces of every attached sandbox, the default one first. Beside an error it gives those that could be read.
	Counters() (map[string][]stats.Interface, error)
	// CountersOf gives those of one sandbox.
	CountersOf(sandboxID string) ([]stats.Interface, error)
}

// counters asks once for all pods' traffic. It is for lists: without some figures, the rest is still worth telling.
func (m *Manager) counters() map[string][]stats.Interface {
	n, ok := m.Network.(networkCounter)
	if !ok {
		return nil
	}
	all, err := n.Counters()
	if err != nil {
		m.Log.Warn("leave network figures out", "error", err)
	}
	return all
}

// PodSandboxStats returns a ready sandbox's figures (§6.2).
func (m *Manager) PodSandboxStats(id string) (*runtimeapi.PodSandboxStats, error) {
	p, err := m.findPod(id)
	if err != nil {
		return nil, err
	}
	r := p.snapshot()
	if r.State != Ready {
		return nil, errs.New(errs.Unavailable, "stats of pod sandbox %s: it is %s, not ready", p.id, r.State)
	}
	s, err := m.podStats(p, &r)
	if err != nil {
		return nil, err
	}
	if n, ok := m.Network.(networkCounter); ok {
		traffic, err := n.CountersOf(p.id)
		if err != nil {
			return nil, err
		}
		s.Linux.Network = stats.Network(time.Now(), traffic)
	}
	return s, nil
}

// ListPodSandboxStats returns the figures of the ready sandboxes a filter selects (nil: all), oldest first. One that ends meanwhile is left out.
func (m *Manager) ListPodSandboxStats(filter *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	var traffic map[string][]stats.Interface
	var counted sync.WaitGroup
	counted.Go(func() { traffic = m.counters() })
	list := readPods(m, filter, m.podStats)
	counted.Wait()
	at := time.Now()
	for _, s := range list {
		s.Linux.Network = stats.Network(at, traffic[s.Attributes.Id])
	}
	return list
}

// readPods reads something of every ready pod a filter selects, a few at once; what fails has ended meanwhile and is left out.
func readPods[T any](m *Manager, filter *runtimeapi.PodSandboxStatsFilter, read func(*Pod, *PodRecord) (*T, error)) []*T {
	type chosen struct {
		pod    *Pod
		record PodRecord
	}
	var selected []chosen
	for _, p := range m.allPods() {
		if !p.isVisible() {
			continue
		}
		r := p.snapshot()
		if r.State == Ready && strings.HasPrefix(r.ID, filter.GetId()) && selects(filter.GetLabelSelector(), r.Config.M.GetLabels()) {
			selected = append(selected, chosen{p, r})
		}
	}
	slices.SortFunc(selected, func(a, b chosen) int {
		return cmp.Or(a.record.Created.Compare(b.record.Created), strings.Compare(a.pod.id, b.pod.id))
	})
	found := make([]*T, len(selected))
	atOnce(len(selected), func(i int) {
		if one, err := read(selected[i].pod, &selected[i].record); err == nil {
			found[i] = one
		}
	})
	return slices.DeleteFunc(found, func(one *T) bool { return one == nil })
}

// statsAtOnce bounds the readers of one call: cgroup files are read in the kernel's time, not in ours.
const statsAtOnce = 8

// atOnce does n things, a few at the same time.
func atOnce(n int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, statsAtOnce) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// podStats is all but the network.
func (m *Manager) podStats(p *Pod, r *PodRecord) (*runtimeapi.PodSandboxStats, error) {
	s := &runtimeapi.LinuxPodSandboxStats{}
	var sum cgroup.Stats
	for _, c := range p.runningContainers() {
		cr := c.snapshot()
		one, figures, err := m.containerStats(c, &cr)
		if err != nil { // ended meanwhile
			continue
		}
		s.Containers = append(s.Containers, one)
		stats.Add(&sum, figures)
	}
	f, rate, err := m.podUsage(r, &sum)
	if err != nil {
		return nil, err
	}
	if p.snapshot().State != Ready { // stopped meanwhile: its meters, maybe made anew, go as well
		m.figures.drop(r.Cgroup)
		return nil, errs.New(errs.Unavailable, "stats of pod sandbox %s: it has been stopped", p.id)
	}
	g := stats.OfGroup(f, rate)
	s.Cpu, s.Memory, s.Io, s.Process = g.CPU, g.Memory, g.IO, g.Process
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: r.ID, Metadata: r.Config.M.GetMetadata(), Labels: r.Config.M.GetLabels(), Annotations: r.Config.M.GetAnnotations(),
		},
		Linux: s,
	}, nil
}

// podUsage is what a whole pod uses: the group above its own, where that is this pod's alone; otherwise containers, the sum of its running
// ones, and pause.
func (m *Manager) podUsage(r *PodRecord, containers *cgroup.Stats) (*cgroup.Stats, *uint64, error) {
	if ownsParent(r) {
		f, rate, err := m.usage(meterKey{r.Cgroup, true}, filepath.Dir(r.Cgroup))
		return &f, rate, err
	}
	pause, _, err := m.usage(meterKey{r.Cgroup, false}, r.Cgroup)
	if err != nil {
		return nil, nil, err
	}
	stats.Add(containers, &pause)
	// A sum that falls, as a container ends, has no rate then: stats.Rate knows.
	kept := m.figures.of(meterKey{r.Cgroup, false}, m.Cgroups.Group(r.Cgroup))
	if kept == nil {
		return containers, nil, nil
	}
	return containers, kept.sum.Of(containers.Time, containers.CPU.Usage), nil
}

// ownsParent reports whether the group above a pod's own holds this pod alone, as the kubelet makes it: its name says whose it is
// ("pod<uid>", or "…-pod<uid>.slice" with the dashes replaced). Any other may be shared.
func ownsParent(r *PodRecord) bool {
	name := strings.TrimSuffix(filepath.Base(filepath.Dir(r.Cgroup)), ".slice")
	uid := r.Config.M.GetMetadata().GetUid()
	return uid != "" && (strings.HasSuffix(name, "pod"+uid) || strings.HasSuffix(name, "pod"+strings.ReplaceAll(uid, "-", "_")))
}

// runningContainers are the visible ones that run, in a steady order.
func (p *Pod) runningContainers() []*Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*Container
	for _, c := range p.containers {
		if c.visible && c.record.State == StateRun {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *Container) int { return strings.Compare(a.id, b.id) })
	return all
}

// UpdatePodSandboxResources notes what the pod as a whole has been given (UPR-1). The kubelet has changed the pod's control group already, which is
// not ours to touch; the record, and with it the sandbox's verbose status, says what is in force.
func (m *Manager) UpdatePodSandboxResources(_ context.Context, id string, overhead, resources *runtimeapi.LinuxContainerResources) error {
	p, err := m.findPod(id)
	if err != nil {
		return err
	}
	return m.updatePod(p, func(r *PodRecord) error {
		config := proto.Clone(r.Config.M).(*runtimeapi.PodSandboxConfig)
		if config.Linux == nil {
			config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
		}
		if overhead != nil {
			config.Linux.Overhead = overhead
		}
		if resources != nil {
			config.Linux.Resources = resources
		}
		r.Config = wrap(config)
		return nil
	})
}
