package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/pod"
	"fermata/internal/stats"
)

// figureCalls are about pods' figures.
type figureCalls struct{ pods *pod.Manager }

// PodSandboxStats gives one sandbox's figures.
func (f *figureCalls) PodSandboxStats(_ context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	s, err := f.pods.PodSandboxStats(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: s}, nil
}

// ListPodSandboxStats gives those of many.
func (f *figureCalls) ListPodSandboxStats(_ context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: f.pods.ListPodSandboxStats(req.GetFilter())}, nil
}

// StreamPodSandboxStats gives those of many in parts.
func (f *figureCalls) StreamPodSandboxStats(req *runtimeapi.StreamPodSandboxStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	return batch(f.pods.ListPodSandboxStats(req.GetFilter()), func(part []*runtimeapi.PodSandboxStats) error {
		return to.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

// ListMetricDescriptors describes every metric there is (MET-1).
func (f *figureCalls) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: stats.Descriptors()}, nil
}

// ListPodSandboxMetrics gives every ready pod's metrics and its containers' (MET-3). It is not limited to ten calls a second as containerd's is (MET-4):
// it costs what ListPodSandboxStats costs, which nobody limits, and a scrape that fails is worse than one that waits.
func (f *figureCalls) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	all, err := f.pods.ListPodSandboxMetrics()
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: all}, nil
}

// StreamPodSandboxMetrics gives them in parts.
func (f *figureCalls) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	all, err := f.pods.ListPodSandboxMetrics()
	if err != nil {
		return err
	}
	return batch(all, func(part []*runtimeapi.PodSandboxMetrics) error {
		return to.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

// UpdatePodSandboxResources notes what the pod as a whole has been given (UPR-1).
func (f *figureCalls) UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, f.pods.UpdatePodSandboxResources(ctx, req.GetPodSandboxId(), req.GetOverhead(), req.GetResources())
}
