package cli

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var psCommand = command{
	name: "ps", args: "[flags] [POD]", group: groupPods, max: 1,
	brief: "list containers that run, with --all also those that ended",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		all := flags.BoolP("all", "a", false, "also containers that have not started or have ended")
		return func(ctx context.Context, args []string) error { return s.listContainers(ctx, args, *all) }
	},
}

func (s *session) listContainers(ctx context.Context, args []string, all bool) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	in := ""
	if len(args) == 1 {
		p, err := v.pod(args[0])
		if err != nil {
			return err
		}
		in = p.Id
	}
	var shown []*runtimeapi.Container
	for _, c := range v.containers {
		if (all || c.State == runtimeapi.ContainerState_CONTAINER_RUNNING) && (in == "" || c.PodSandboxId == in) {
			shown = append(shown, c)
		}
	}
	sort.SliceStable(shown, func(i, j int) bool {
		a, b := podName(v.podOf(shown[i])), podName(v.podOf(shown[j]))
		if a != b {
			return a < b
		}
		return shown[i].CreatedAt < shown[j].CreatedAt
	})
	if done, err := s.structured(&runtimeapi.ListContainersResponse{Containers: shown}, ""); done {
		return err
	}
	if len(shown) == 0 {
		fmt.Fprintln(s.Stderr, "No containers found.")
		return nil
	}
	t := newTable("NAMESPACE", "POD", "CONTAINER", "STATE", "ATTEMPT", "AGE", "IMAGE", "CONTAINER ID")
	now := time.Now()
	for _, c := range shown {
		p := v.podOf(c)
		image := c.GetImage().GetUserSpecifiedImage()
		if image == "" {
			image = c.GetImage().GetImage()
		}
		t.add(orDash(p.GetMetadata().GetNamespace()), orDash(p.GetMetadata().GetName()), c.GetMetadata().GetName(), stateWord(c.State),
			strconv.FormatUint(uint64(c.GetMetadata().GetAttempt()), 10), age(now, time.Unix(0, c.CreatedAt)), shortImage(image), short(c.Id))
	}
	return t.print(s.Stdout)
}

func stateWord(state runtimeapi.ContainerState) string {
	switch state {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return "Created"
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return "Running"
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return "Exited"
	}
	return "Unknown"
}
