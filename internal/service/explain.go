package service

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/explain"
	"fermata/internal/pod"
)

// ListNamespaces says who shares which namespace.
func (s *Service) ListNamespaces(_ context.Context, req *fermatav1.ListNamespacesRequest) (*fermatav1.ListNamespacesResponse, error) {
	list, err := s.explain.Namespaces(explain.Which{Pod: req.GetPodId(), Inode: req.GetInode(), PID: int(req.GetPid())})
	if err != nil {
		return nil, err
	}
	resp := &fermatav1.ListNamespacesResponse{}
	for _, n := range list {
		out := &fermatav1.Namespace{
			Kind: n.Kind, Inode: n.Inode, Host: n.Host, PodId: n.Pod, ContainerId: n.Container, Processes: processes(n.Processes),
		}
		for _, h := range n.Holders {
			out.Holders = append(out.Holders, holder(h))
		}
		resp.Namespaces = append(resp.Namespaces, out)
	}
	return resp, nil
}

func holder(h explain.Holder) *fermatav1.NamespaceHolder {
	switch h.What {
	case explain.ByPause:
		return &fermatav1.NamespaceHolder{Holder: &fermatav1.NamespaceHolder_Pause{Pause: int32(h.PID)}}
	case explain.ByKeeper:
		d := &fermatav1.NamespaceHolder_Descriptor{Pid: int32(h.PID), Number: int32(h.FD)}
		return &fermatav1.NamespaceHolder{Holder: &fermatav1.NamespaceHolder_Keeper{Keeper: d}}
	}
	return &fermatav1.NamespaceHolder{Holder: &fermatav1.NamespaceHolder_Bind{Bind: h.Path}}
}

func processes(all []*explain.Process) []*fermatav1.Process {
	var out []*fermatav1.Process
	for _, p := range all {
		out = append(out, process(p))
	}
	return out
}

func process(p *explain.Process) *fermatav1.Process {
	if p == nil {
		return nil
	}
	return &fermatav1.Process{
		Pid: int32(p.PID), Parent: int32(p.Parent), Name: strings.ToValidUTF8(p.Name, "?"), Role: fermatav1.Process_Role(p.Role), PodId: p.Pod,
		ContainerId: p.Container, StartedAt: p.Started.UnixNano(), Memory: p.Memory,
	}
}

// Tree is the node from its pods down to their processes.
func (s *Service) Tree(context.Context, *fermatav1.TreeRequest) (*fermatav1.TreeResponse, error) {
	tree, err := s.explain.Tree()
	if err != nil {
		return nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	resp := &fermatav1.TreeResponse{Node: name}
	for _, p := range tree.Pods {
		config := p.Record.Config.M
		out := &fermatav1.TreePod{
			Id: p.Record.ID, Namespace: config.GetMetadata().GetNamespace(), Name: config.GetMetadata().GetName(), Ready: p.Record.State == pod.Ready,
			Reason: p.Record.Reason, Cgroup: p.Record.Cgroup, CreatedAt: p.Record.Created.UnixNano(), Pause: process(p.Pause), Strays: processes(p.Strays),
		}
		for _, ip := range p.Record.IPs {
			out.Ips = append(out.Ips, ip.String())
		}
		for _, m := range config.GetPortMappings() {
			if m.GetHostPort() <= 0 {
				continue
			}
			out.Ports = append(out.Ports, &fermatav1.TreePort{
				Protocol: strings.ToLower(m.GetProtocol().String()), ContainerPort: uint32(m.GetContainerPort()), HostPort: uint32(m.GetHostPort()), HostIp: m.GetHostIp(),
			})
		}
		for _, c := range p.Containers {
			out.Containers = append(out.Containers, treeContainer(c))
		}
		resp.Pods = append(resp.Pods, out)
	}
	return resp, nil
}

func treeContainer(c explain.ContainerBranch) *fermatav1.TreeContainer {
	r := c.Record
	out := &fermatav1.TreeContainer{
		Id: r.ID, Name: r.Config.M.GetMetadata().GetName(), Image: r.ImageName, State: string(r.State), Reason: r.Reason, Cgroup: r.Cgroup,
		CreatedAt: r.Created.UnixNano(), StartedAt: nanoseconds(r.Started), Processes: processes(c.Processes),
	}
	if asked := r.Config.M.GetImage().GetUserSpecifiedImage(); asked != "" {
		out.Image = asked
	}
	if c.Memory != nil {
		out.Memory = *c.Memory
	}
	if r.Exit != nil {
		out.ExitCode, out.FinishedAt = int32(r.Exit.Code), nanoseconds(r.Exit.Finished)
	}
	return out
}

// nanoseconds since 1970; 0 for never.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// changesAtOnce is how many changes a message has.
const changesAtOnce = 256

// Diff tells what a container has changed.
func (s *Service) Diff(req *fermatav1.DiffRequest, out grpc.ServerStreamingServer[fermatav1.DiffResponse]) error {
	batch := &fermatav1.DiffResponse{}
	err := s.explain.Diff(out.Context(), req.GetContainerId(), func(c explain.Change) error {
		batch.Changes = append(batch.Changes, &fermatav1.Change{Kind: fermatav1.Change_Kind(c.Kind), Path: []byte(c.Path)})
		if len(batch.Changes) < changesAtOnce {
			return nil
		}
		full := batch
		batch = &fermatav1.DiffResponse{}
		return out.Send(full)
	})
	if err != nil || len(batch.Changes) == 0 {
		return err
	}
	return out.Send(batch)
}

// ImageHistory tells how an image was made.
func (s *Service) ImageHistory(_ context.Context, req *fermatav1.ImageHistoryRequest) (*fermatav1.ImageHistoryResponse, error) {
	steps, err := s.images.History(req.GetImage())
	if err != nil {
		return nil, err
	}
	resp := &fermatav1.ImageHistoryResponse{}
	for _, step := range slices.Backward(steps) {
		resp.Steps = append(resp.Steps, &fermatav1.ImageStep{
			CreatedAt: nanoseconds(step.Created), CreatedBy: strings.ToValidUTF8(step.CreatedBy, "?"), Comment: strings.ToValidUTF8(step.Comment, "?"),
			Layer: step.Layer, Size: step.Size,
		})
	}
	return resp, nil
}
