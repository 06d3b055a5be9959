package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// refusedCalls are those that fermata does not do. All are about checkpoints: restoring one means to trust an archive with the memory of processes
// (CVE-2026-53492's class), and the native handler has nothing that could dump one.
type refusedCalls struct{}

// CheckpointContainer is refused with the reason.
func (refusedCalls) CheckpointContainer(_ context.Context, req *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, errs.New(errs.Unimplemented, "CheckpointContainer %.80q: fermata's native handler cannot checkpoint processes", req.GetContainerId())
}

// CheckpointPod is refused with the reason.
func (refusedCalls) CheckpointPod(_ context.Context, req *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, errs.New(errs.Unimplemented, "CheckpointPod %.80q: fermata's native handler cannot checkpoint processes", req.GetPodSandboxId())
}

// RestorePod is refused with the reason.
func (refusedCalls) RestorePod(_ context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, errs.New(errs.Unimplemented, "RestorePod from %.80q: fermata's native handler cannot restore processes from checkpoints", req.GetCheckpointPath())
}
