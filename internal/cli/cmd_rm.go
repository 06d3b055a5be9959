package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cli/manifest"
)

var rmCommand = command{
	name: "rm", args: "[flags] POD|CONTAINER...", group: groupPods, min: 0, max: -1,
	brief: "remove pods or containers, stopping them first",
	long: `With a pod go its containers and, if "fermata run" started it, its logs and emptyDir volumes.
Images stay.`,
	example: "sudo fermata rm web\nsudo fermata rm --all",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		all := flags.BoolP("all", "a", false, "all pods")
		grace := flags.DurationP("timeout", "t", -1, "grace time before the kill (default the pod's, else 30s)")
		flags.Lookup("timeout").DefValue = "0s" // pflag shows no zero
		return func(ctx context.Context, args []string) error {
			if *all != (len(args) == 0) {
				return misused("usage: fermata rm POD|CONTAINER... or fermata rm --all")
			}
			if *all {
				return s.removeAll(ctx, *grace)
			}
			return s.eachObject(ctx, args, func(v *view, p *runtimeapi.PodSandbox, c *runtimeapi.Container) error {
				if c != nil {
					return s.removeContainer(ctx, v, c, *grace)
				}
				return s.removePod(ctx, v, p, *grace)
			})
		}
	},
}

func (s *session) removeAll(ctx context.Context, grace time.Duration) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for _, p := range v.pods {
		ids = append(ids, p.Id)
	}
	return s.each(ids, func(id string) error {
		p, err := v.pod(id)
		if err != nil {
			return err
		}
		return s.removePod(ctx, v, p, grace)
	})
}

func (s *session) removeContainer(ctx context.Context, v *view, c *runtimeapi.Container, grace time.Duration) error {
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		if err := s.end(ctx, c, grace); err != nil {
			return fmt.Errorf("stop container %s: %w", v.containerName(c), err)
		}
	}
	if _, err := client.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.Id}); err != nil {
		return fmt.Errorf("remove container %s: %w", v.containerName(c), err)
	}
	fmt.Fprintf(s.Stdout, "container/%s removed\n", c.GetMetadata().GetName())
	return nil
}

func (s *session) removePod(ctx context.Context, v *view, p *runtimeapi.PodSandbox, grace time.Duration) error {
	if err := s.endPod(ctx, v, p, grace); err != nil {
		return err
	}
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	if _, err := client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", podName(p), err)
	}
	if err := removeData(p); err != nil {
		return fmt.Errorf("remove the data of pod %s: %w", podName(p), err)
	}
	fmt.Fprintf(s.Stdout, "pod/%s removed\n", p.GetMetadata().GetName())
	return nil
}

// marker is in every directory that run makes for a pod; nothing without it is ever removed.
const marker = ".fermata-pod"

// removeData removes the directory that run made for the pod. The annotation that names it can be anybody's, so the directory must
// carry the pod's UID in its name and the marker that run left.
func removeData(p *runtimeapi.PodSandbox) error {
	dir := p.Annotations[manifest.Data]
	if dir == "" || !filepath.IsAbs(dir) || filepath.Base(dir) != p.GetMetadata().GetUid() {
		return nil
	}
	if text, err := os.ReadFile(filepath.Join(dir, marker)); err != nil || string(text) != p.GetMetadata().GetUid() {
		return nil
	}
	return os.RemoveAll(dir)
}
