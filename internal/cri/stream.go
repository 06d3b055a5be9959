package cri

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/pod"
	"fermata/internal/spec"
	"fermata/internal/stream"
)

// Streams gives addresses at which a session can be held, once and soon.
type Streams interface {
	Exec(req *runtimeapi.ExecRequest) (url string, err error)
	Attach(req *runtimeapi.AttachRequest) (url string, err error)
	PortForward(req *runtimeapi.PortForwardRequest) (url string, err error)
}

var _ Streams = (*stream.Server)(nil)

// streamCalls prepare sessions with commands, containers and ports.
type streamCalls struct {
	pods    *pod.Manager
	streams Streams
}

// Exec prepares a command with a client's streams.
func (s *streamCalls) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	id, err := s.check("exec", req)
	if err != nil {
		return nil, err
	}
	if err := spec.CheckCommand(req.GetCmd()); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	req.ContainerId = id
	url, err := s.streams.Exec(req)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecResponse{Url: url}, nil
}

// Attach prepares a session with a container's own streams.
func (s *streamCalls) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	id, err := s.check("attach", req)
	if err != nil {
		return nil, err
	}
	req.ContainerId = id
	url, err := s.streams.Attach(req)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.AttachResponse{Url: url}, nil
}

// PortForward prepares connections to a sandbox's ports.
func (s *streamCalls) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if req.GetPodSandboxId() == "" {
		return nil, errs.New(errs.InvalidArgument, "port-forward: pod_sandbox_id: missing")
	}
	for i, port := range req.GetPort() {
		if port < 1 || port > 65535 {
			return nil, errs.New(errs.InvalidArgument, "port-forward: port[%d]: %d is no port", i, port)
		}
	}
	id, err := s.pods.CanForward(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	req.PodSandboxId = id
	url, err := s.streams.PortForward(req)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PortForwardResponse{Url: url}, nil
}

// streamRequest is what Exec's and Attach's requests have in common.
type streamRequest interface {
	GetContainerId() string
	GetTty() bool
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
}

// check validates a request's form and returns the whole ID of its container.
func (s *streamCalls) check(call string, req streamRequest) (string, error) {
	switch {
	case req.GetContainerId() == "":
		return "", errs.New(errs.InvalidArgument, "%s: container_id: missing", call)
	case req.GetTty() && req.GetStderr():
		return "", errs.New(errs.InvalidArgument, "%s: tty and stderr: a terminal has one output", call)
	case !req.GetStdin() && !req.GetStdout() && !req.GetStderr():
		return "", errs.New(errs.InvalidArgument, "%s: one of stdin, stdout and stderr must be set", call)
	}
	return s.pods.CanStream(req.GetContainerId())
}
