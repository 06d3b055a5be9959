package fault

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// exitCode is what the container of a life exits with when it is asked to end.
const exitCode = 7

// life is one pod's, from the pull of an image to its removal, a call at a time.
type life struct {
	w      *world
	name   string
	config *runtimeapi.PodSandboxConfig
	ctr    *runtimeapi.ContainerConfig
	pod    string
	id     string
}

func newLife(w *world, n int) *life {
	name := fmt.Sprintf("life-%d", n)
	l := &life{w: w, name: name, config: cri.PodConfig(name, filepath.Join(w.Dir, "logs", name))}
	l.config.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 31080}}
	l.ctr = cri.ContainerConfig("main", images.Busybox, "sh", "-c", fmt.Sprintf("trap 'exit %d' TERM; touch /up; while :; do sleep 1000 & wait; done", exitCode))
	return l
}

// call is one request of a life; it can be repeated.
type call struct {
	name string
	do   func(context.Context) error
}

// calls are a life's requests in their order.
func (l *life) calls() []call {
	c := l.w.CRI
	return []call{
		{"PullImage", func(ctx context.Context) error {
			_, err := c.Pull(ctx, images.Pause)
			return err
		}},
		{"RunPodSandbox", func(ctx context.Context) (err error) { l.pod, err = c.RunPod(ctx, l.config); return err }},
		{"CreateContainer", func(ctx context.Context) (err error) { l.id, err = c.Create(ctx, l.pod, l.config, l.ctr); return err }},
		{"StartContainer", l.start},
		{"ExecSync", func(ctx context.Context) error {
			out, err := c.Exec(ctx, l.id, "sh", "-c", "until [ -e /up ]; do usleep 1000; done; echo hello")
			if err == nil && out != "hello\n" {
				err = fmt.Errorf("exec wrote %q", out)
			}
			return err
		}},
		{"StopContainer", l.stop},
		{"RemoveContainer", func(ctx context.Context) error {
			_, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: l.id})
			return err
		}},
		{"StopPodSandbox", func(ctx context.Context) error {
			_, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: l.pod})
			return err
		}},
		{"RemovePodSandbox", func(ctx context.Context) error {
			_, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: l.pod})
			return err
		}},
		{"RemoveImage", func(ctx context.Context) error {
			_, err := c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: images.Pause}})
			return err
		}},
	}
}

// start starts the container as the kubelet does: one whose start failed is replaced by the next attempt.
func (l *life) start(ctx context.Context) error {
	s, err := l.w.CRI.State(ctx, l.id)
	if err != nil {
		return err
	}
	switch s.GetState() {
	case runtimeapi.ContainerState_CONTAINER_RUNNING: // the answer was lost, not the start
		return nil
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		if s.GetReason() != "StartError" || s.GetMessage() == "" {
			return fmt.Errorf("a container that did not start is %s (%d) and says %q", s.GetReason(), s.GetExitCode(), s.GetMessage())
		}
		if _, err := l.w.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: l.id}); err != nil {
			return err
		}
		l.ctr.Metadata.Attempt++
		if l.id, err = l.w.CRI.Create(ctx, l.pod, l.config, l.ctr); err != nil {
			return err
		}
	}
	return l.w.CRI.Start(ctx, l.id)
}

// stop stops the container and looks how it ended: it has a handler for the signal, so there is only one right answer.
func (l *life) stop(ctx context.Context) error {
	_, err := l.w.CRI.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: l.id, Timeout: 20})
	if err != nil {
		return err
	}
	s, err := l.w.CRI.State(ctx, l.id)
	if err == nil && (s.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || s.GetExitCode() != exitCode) {
		err = wrong{fmt.Errorf("the container is %v, %d (%s: %s); it exits with %d", s.GetState(), s.GetExitCode(), s.GetReason(), s.GetMessage(), exitCode)}
	}
	return err
}

// wrong is an answer that no repetition makes right.
type wrong struct{ error }

func isWrong(err error) bool { return errors.As(err, new(wrong)) }
