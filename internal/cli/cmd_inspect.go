package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

var inspectCommand = command{
	name: "inspect", args: "[flags] POD|CONTAINER|IMAGE", group: groupPods, min: 1, max: 1,
	brief: "everything the daemon knows of a pod, a container or an image, as JSON",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		kind := flags.String("type", "", "pod, container or image, where a name is more than one")
		return func(ctx context.Context, args []string) error { return s.inspect(ctx, args[0], *kind) }
	},
}

func (s *session) inspect(ctx context.Context, name, kind string) error {
	switch kind {
	case "", "pod", "container", "image":
	default:
		return misused("--type %q: one of pod, container, image", kind)
	}
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	if kind == "" || kind == "pod" {
		p, err := v.pod(name)
		if err == nil {
			return s.inspectPod(ctx, p.Id)
		}
		if kind == "pod" || !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	if kind == "" || kind == "container" {
		c, err := v.container(name, "")
		if err == nil {
			return s.inspectContainer(ctx, c.Id)
		}
		if kind == "container" || !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	return s.inspectImage(ctx, name, kind)
}

func (s *session) inspectPod(ctx context.Context, id string) error {
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	answer, err := client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return fmt.Errorf("inspect pod %s: %w", short(id), err)
	}
	return s.show(answer.Status, answer.Info)
}

func (s *session) inspectContainer(ctx context.Context, id string) error {
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	answer, err := client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return fmt.Errorf("inspect container %s: %w", short(id), err)
	}
	return s.show(answer.Status, answer.Info)
}

func (s *session) inspectImage(ctx context.Context, name, kind string) error {
	client, err := s.images(ctx)
	if err != nil {
		return err
	}
	answer, err := client.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}, Verbose: true})
	if err != nil {
		return fmt.Errorf("inspect image %s: %w", name, err)
	}
	switch {
	case answer.Image != nil:
		return s.show(answer.Image, answer.Info)
	case kind == "image":
		return errs.New(errs.NotFound, "image %q: there is none; `fermata images` lists them", name)
	}
	return errs.New(errs.NotFound, "%q: neither a pod, a container nor an image; `fermata pods`, `fermata ps --all` and `fermata images` list them", name)
}

func (s *session) show(status any, info map[string]string) error {
	joined, err := withInfo(status, info)
	if err != nil {
		return err
	}
	_, err = s.structured(joined, "json")
	return err
}
