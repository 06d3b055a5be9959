package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/pod"
)

// sandboxCalls are about pod sandboxes.
type sandboxCalls struct{ pods *pod.Manager }

// RunPodSandbox makes a ready sandbox.
func (s *sandboxCalls) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	id, err := s.pods.RunPodSandbox(ctx, req)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox ends all of a sandbox.
func (s *sandboxCalls) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return &runtimeapi.StopPodSandboxResponse{}, s.pods.StopPodSandbox(ctx, req.GetPodSandboxId())
}

// RemovePodSandbox forgets a sandbox.
func (s *sandboxCalls) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return &runtimeapi.RemovePodSandboxResponse{}, s.pods.RemovePodSandbox(ctx, req.GetPodSandboxId())
}

// PodSandboxStatus describes a sandbox and its containers.
func (s *sandboxCalls) PodSandboxStatus(ctx context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return s.pods.PodSandboxStatus(ctx, req.GetPodSandboxId(), req.GetVerbose())
}

// ListPodSandbox lists sandboxes.
func (s *sandboxCalls) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: s.pods.ListPodSandboxes(req.GetFilter())}, nil
}

// StreamPodSandboxes lists sandboxes in parts.
func (s *sandboxCalls) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return batch(s.pods.ListPodSandboxes(req.GetFilter()), func(part []*runtimeapi.PodSandbox) error {
		return to.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}
