package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/pod"
)

// containerCalls are about containers' lives.
type containerCalls struct{ pods *pod.Manager }

// CreateContainer makes a container in a ready sandbox.
func (c *containerCalls) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	id, err := c.pods.CreateContainer(ctx, req)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer launches it.
func (c *containerCalls) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return &runtimeapi.StartContainerResponse{}, c.pods.StartContainer(ctx, req.GetContainerId())
}

// StopContainer ends it, with grace.
func (c *containerCalls) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return &runtimeapi.StopContainerResponse{}, c.pods.StopContainer(ctx, req.GetContainerId(), seconds(req.GetTimeout()))
}

// RemoveContainer forgets it.
func (c *containerCalls) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return &runtimeapi.RemoveContainerResponse{}, c.pods.RemoveContainer(ctx, req.GetContainerId())
}

// ListContainers lists containers.
func (c *containerCalls) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: c.pods.ListContainers(req.GetFilter())}, nil
}

// StreamContainers lists containers in parts.
func (c *containerCalls) StreamContainers(req *runtimeapi.StreamContainersRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return batch(c.pods.ListContainers(req.GetFilter()), func(part []*runtimeapi.Container) error {
		return to.Send(&runtimeapi.StreamContainersResponse{Containers: part})
	})
}

// ContainerStatus describes a container.
func (c *containerCalls) ContainerStatus(ctx context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return c.pods.ContainerStatus(ctx, req.GetContainerId(), req.GetVerbose())
}

// UpdateContainerResources changes limits.
func (c *containerCalls) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return &runtimeapi.UpdateContainerResourcesResponse{}, c.pods.UpdateContainerResources(ctx, req.GetContainerId(), req.GetLinux())
}

// ReopenContainerLog follows a rotation.
func (c *containerCalls) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return &runtimeapi.ReopenContainerLogResponse{}, c.pods.ReopenContainerLog(ctx, req.GetContainerId())
}
