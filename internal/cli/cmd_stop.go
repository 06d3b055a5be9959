package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cli/manifest"
	"fermata/internal/errs"
)

// defaultGrace is Kubernetes's terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

var stopCommand = command{
	name: "stop", args: "[flags] POD|CONTAINER...", group: groupPods, min: 1, max: -1,
	brief: "stop pods or containers: ask first, kill after a time",
	long: `A container is sent its stop signal and, if it still runs after the grace time, killed. A pod's containers are
stopped together, then its network goes. What was stopped stays listed, with logs and exit codes, until "fermata rm".`,
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		grace := flags.DurationP("timeout", "t", -1, "grace time before the kill (default the pod's, else 30s)")
		flags.Lookup("timeout").DefValue = "0s" // pflag shows no zero
		return func(ctx context.Context, args []string) error {
			return s.eachObject(ctx, args, func(v *view, p *runtimeapi.PodSandbox, c *runtimeapi.Container) error {
				if c != nil {
					return s.stopContainer(ctx, v, c, *grace)
				}
				return s.stopPod(ctx, v, p, *grace)
			})
		}
	},
}

// eachObject calls do with what every argument names: a pod, or a container where no pod is meant.
func (s *session) eachObject(ctx context.Context, args []string, do func(*view, *runtimeapi.PodSandbox, *runtimeapi.Container) error) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	return s.each(args, func(name string) error {
		p, podErr := v.pod(name)
		if podErr == nil {
			return do(v, p, nil)
		}
		if !errs.Is(podErr, errs.NotFound) {
			return podErr
		}
		c, err := v.container(name, "")
		if errs.Is(err, errs.NotFound) {
			return errs.New(errs.NotFound, "%q: neither a pod nor a container; `fermata pods` and `fermata ps --all` list them", name)
		}
		if err != nil {
			return err
		}
		return do(v, v.podOf(c), c)
	})
}

// graceOf is the flag's, the pod's own, or Kubernetes's default.
func graceOf(c *runtimeapi.Container, flag time.Duration) int64 {
	if flag >= 0 {
		return int64((flag + time.Second - 1) / time.Second)
	}
	if seconds, err := strconv.ParseInt(c.Annotations[manifest.GracePeriod], 10, 64); err == nil && seconds >= 0 {
		return seconds
	}
	return int64(defaultGrace / time.Second)
}

func (s *session) stopContainer(ctx context.Context, v *view, c *runtimeapi.Container, grace time.Duration) error {
	if err := s.end(ctx, c, grace); err != nil {
		return fmt.Errorf("stop container %s: %w", v.containerName(c), err)
	}
	fmt.Fprintf(s.Stdout, "container/%s stopped\n", c.GetMetadata().GetName())
	return nil
}

func (s *session) end(ctx context.Context, c *runtimeapi.Container, grace time.Duration) error {
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	_, err = client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: graceOf(c, grace)})
	return err
}

func (s *session) stopPod(ctx context.Context, v *view, p *runtimeapi.PodSandbox, grace time.Duration) error {
	if err := s.endPod(ctx, v, p, grace); err != nil {
		return err
	}
	fmt.Fprintf(s.Stdout, "pod/%s stopped\n", p.GetMetadata().GetName())
	return nil
}

// endPod gives all containers their grace time at once, because StopPodSandbox gives them none.
func (s *session) endPod(ctx context.Context, v *view, p *runtimeapi.PodSandbox, grace time.Duration) error {
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	var wait sync.WaitGroup
	containers := v.of(p.Id)
	problems := make([]error, len(containers))
	for i, c := range containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			wait.Go(func() {
				if err := s.end(ctx, c, grace); err != nil {
					problems[i] = fmt.Errorf("stop container %s: %w", v.containerName(c), err)
				}
			})
		}
	}
	wait.Wait()
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if _, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", podName(p), err)
	}
	return nil
}
