package pod

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/spec"
)

// ListPodSandboxes returns the visible sandboxes a filter selects (nil: all), oldest first. From memory only (LPS-1).
func (m *Manager) ListPodSandboxes(filter *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	list := []*runtimeapi.PodSandbox{}
	for _, p := range m.allPods() {
		if !p.isVisible() {
			continue
		}
		r := p.snapshot()
		item := &runtimeapi.PodSandbox{
			Id: r.ID, Metadata: r.Config.M.GetMetadata(), State: r.State.criPod(), CreatedAt: r.Created.UnixNano(),
			Labels: r.Config.M.GetLabels(), Annotations: r.Config.M.GetAnnotations(), RuntimeHandler: r.Handler,
		}
		if !strings.HasPrefix(r.ID, filter.GetId()) || filter.GetState() != nil && filter.GetState().GetState() != item.State ||
			!selects(filter.GetLabelSelector(), item.Labels) {
			continue
		}
		list = append(list, item)
	}
	slices.SortFunc(list, func(a, b *runtimeapi.PodSandbox) int { return int(a.CreatedAt - b.CreatedAt) })
	return list
}

// ListContainers returns the visible containers a filter selects (nil: all), oldest first.
func (m *Manager) ListContainers(filter *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	list := []*runtimeapi.Container{}
	for _, c := range m.selectContainers(filter.GetId(), filter.GetPodSandboxId(), filter.GetLabelSelector()) {
		r := c.snapshot()
		if filter.GetState() != nil && filter.GetState().GetState() != r.State.criContainer() {
			continue
		}
		list = append(list, &runtimeapi.Container{
			Id: r.ID, PodSandboxId: r.PodID, Metadata: r.Config.M.GetMetadata(), Image: r.Config.M.GetImage(), ImageRef: r.ImageRef,
			ImageId: r.ImageID, State: r.State.criContainer(), CreatedAt: r.Created.UnixNano(),
			Labels: r.Config.M.GetLabels(), Annotations: r.Config.M.GetAnnotations(),
		})
	}
	slices.SortFunc(list, func(a, b *runtimeapi.Container) int { return int(a.CreatedAt - b.CreatedAt) })
	return list
}

// selectContainers finds visible containers by ID prefix, sandbox ID prefix and labels; empty selects all.
func (m *Manager) selectContainers(id, podID string, labels map[string]string) []*Container {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []*Container
	for _, c := range m.containers {
		if strings.HasPrefix(c.id, id) && strings.HasPrefix(c.pod.id, podID) && c.isVisible() && selects(labels, c.snapshot().Config.M.GetLabels()) {
			all = append(all, c)
		}
	}
	return all
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if had, ok := labels[k]; !ok || had != v {
			return false
		}
	}
	return true
}

// PodSandboxStatus describes a sandbox and its containers; verbose adds what is behind it. It never waits for an operation under way.
func (m *Manager) PodSandboxStatus(_ context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	p, err := m.findPod(id)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	r, containers := p.record, p.containerStatuses()
	p.mu.Unlock()
	resp := &runtimeapi.PodSandboxStatusResponse{Status: sandboxStatus(&r), ContainersStatuses: containers, Timestamp: time.Now().UnixNano()}
	if verbose {
		resp.Info, err = verboseInfo(map[string]any{
			"pid": r.Pause.PID, "config": r.Config.M, "runtimeHandler": r.Handler, "reason": r.Reason, "message": r.Message,
			"cgroup": r.Cgroup, "stages": p.journal.snapshot(),
		})
	}
	return resp, err
}

// sandboxStatus is a pod's record in the CRI's form.
func sandboxStatus(r *PodRecord) *runtimeapi.PodSandboxStatus {
	config := r.Config.M
	status := &runtimeapi.PodSandboxStatus{
		Id: r.ID, Metadata: config.GetMetadata(), State: r.State.criPod(), CreatedAt: r.Created.UnixNano(),
		Network: &runtimeapi.PodSandboxNetworkStatus{}, Labels: config.GetLabels(), Annotations: config.GetAnnotations(), RuntimeHandler: r.Handler,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: namespaces(config)}},
	}
	for i, ip := range r.IPs {
		if i == 0 {
			status.Network.Ip = ip.String()
		} else {
			status.Network.AdditionalIps = append(status.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
		}
	}
	return status
}

// ContainerStatus describes a container.
func (m *Manager) ContainerStatus(_ context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return nil, err
	}
	r := c.snapshot()
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(r)}
	if verbose {
		made, err := m.Records.ReadSpec(r.PodID, r.ID)
		if err != nil {
			return nil, err
		}
		pid := r.Process.PID
		if r.State != StateRun {
			pid = 0
		}
		resp.Info, err = verboseInfo(map[string]any{
			"sandboxID": r.PodID, "pid": pid, "config": r.Config.M, "runtimeSpec": made, "cgroup": r.Cgroup, "stages": c.journal.snapshot(),
			"upper": m.containerDir(&r) + "/upper",
		})
		if err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// containerStatus is a record in the CRI's form.
func containerStatus(r ContainerRecord) *runtimeapi.ContainerStatus {
	config := r.Config.M
	s := &runtimeapi.ContainerStatus{
		Id: r.ID, Metadata: config.GetMetadata(), State: r.State.criContainer(), CreatedAt: r.Created.UnixNano(),
		Image: &runtimeapi.ImageSpec{
			Image: r.ImageName, Annotations: config.GetImage().GetAnnotations(), UserSpecifiedImage: config.GetImage().GetUserSpecifiedImage(),
			RuntimeHandler: config.GetImage().GetRuntimeHandler(),
		},
		ImageRef: r.ImageRef, ImageId: r.ImageID, Reason: r.Reason, Message: r.Message, Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
		Mounts: statusMounts(&r), LogPath: r.LogPath, Resources: &runtimeapi.ContainerResources{Linux: r.Resources.M},
		StopSignal: spec.CRISignal(r.StopSignal),
		User:       &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: int64(r.UID), Gid: int64(r.GID)}},
	}
	for _, g := range r.Groups {
		s.User.Linux.SupplementalGroups = append(s.User.Linux.SupplementalGroups, int64(g))
	}
	if !r.Started.IsZero() {
		s.StartedAt = r.Started.UnixNano()
	}
	if r.Exit != nil {
		s.FinishedAt, s.ExitCode = r.Exit.Finished.UnixNano(), int32(r.Exit.Code)
	}
	return s
}

// verboseInfo is the CRI's info map: "info" holds one JSON object, with the keys that containerd writes and host tools parse.
func verboseInfo(info map[string]any) (map[string]string, error) {
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return map[string]string{"info": string(b)}, nil
}

// HoldsNetwork reports whether a sandbox's network may be in use: its addresses must not be given to another.
func (m *Manager) HoldsNetwork(sandboxID string) bool {
	p, err := m.anyPod(sandboxID)
	return err == nil && p.snapshot().Attached
}

// Any reports whether any pod is known, visible or not.
func (m *Manager) Any() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.pods) > 0
}
