package cri

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/pod"
)

// eventCalls are about what becomes of pods.
type eventCalls struct{ pods *pod.Manager }

// GetContainerEvents tells of what happens from now on. The stream's header is sent at once: a client that has it misses nothing from there on.
func (e *eventCalls) GetContainerEvents(_ *runtimeapi.GetEventsRequest, to grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events := e.pods.Subscribe()
	defer events.Close()
	if err := to.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		next, err := events.Next(to.Context())
		if err != nil {
			return err
		}
		if err := to.Send(next); err != nil {
			return err
		}
	}
}
