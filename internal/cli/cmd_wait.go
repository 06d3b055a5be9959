package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

var waitCommand = command{
	name: "wait", args: "[flags] POD|CONTAINER...", group: groupPods, min: 1, max: -1,
	brief: "wait until containers have ended and show their exit codes",
	long: `One container's exit code is shown alone, several with their names as they end; a pod's are all of its own. It
returns at once for what has ended already.`,
	example: "code=$(sudo fermata wait job)\nsudo fermata wait --timeout 1m web/server web/client",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		timeout := flags.Duration("timeout", 0, "give up after this time (default never)")
		return func(ctx context.Context, args []string) error { return s.wait(ctx, args, *timeout) }
	},
}

func (s *session) wait(ctx context.Context, args []string, timeout time.Duration) error {
	ctx, cancel := withTimeout(ctx, timeout)
	defer cancel()
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	news, err := client.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	if _, err := news.Header(); err != nil { // from here on no end is missed
		return fmt.Errorf("wait: %w", err)
	}
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	w := &waiting{session: s, view: v, left: map[string]string{}}
	if err := w.choose(args); err != nil {
		return err
	}
	w.alone = len(w.left) == 1
	for id := range w.left {
		status, err := s.containerStatus(ctx, id)
		if err != nil {
			return err
		}
		w.ended(status)
	}
	for len(w.left) > 0 {
		m, err := news.Recv()
		if err != nil {
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return errs.New(errs.DeadlineExceeded, "wait: not ended in %v: %s", timeout, w.names())
			}
			if ctx.Err() != nil {
				return &exit{interrupted}
			}
			return fmt.Errorf("wait: %w", err)
		}
		if name, ok := w.left[m.ContainerId]; ok && m.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
			return errs.New(errs.NotFound, "wait for %s: it was removed", name)
		}
		for _, c := range m.ContainersStatuses {
			w.ended(c)
		}
	}
	return nil
}

// waiting is for containers that have not ended, by ID.
type waiting struct {
	*session
	view  *view
	left  map[string]string
	alone bool
}

// choose takes each name for a pod's containers or for one container.
func (w *waiting) choose(args []string) error {
	for _, name := range args {
		podID, containerID, err := w.view.podOrContainer(name, "")
		if err != nil {
			return err
		}
		found := false
		for _, c := range w.view.of(podID) {
			if containerID == "" || c.Id == containerID {
				w.left[c.Id], found = w.view.containerName(c), true
			}
		}
		if !found {
			return errs.New(errs.NotFound, "wait for %s: it has no container", name)
		}
	}
	return nil
}

// ended tells of a container's end, once.
func (w *waiting) ended(c *runtimeapi.ContainerStatus) {
	name, ok := w.left[c.Id]
	if !ok || c.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		return
	}
	delete(w.left, c.Id)
	if w.alone {
		fmt.Fprintln(w.Stdout, c.ExitCode)
		return
	}
	fmt.Fprintln(w.Stdout, name, c.ExitCode)
}

func (w *waiting) names() (list string) {
	for _, c := range w.view.containers { // in the list's order
		if name, ok := w.left[c.Id]; ok {
			if list != "" {
				list += ", "
			}
			list += name
		}
	}
	return list
}
