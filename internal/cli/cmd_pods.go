package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cli/manifest"
)

var podsCommand = command{
	name: "pods", args: "[flags] [POD]", group: groupPods, max: 1,
	brief: "list pods",
	long: `READY counts the containers that run, of those that are meant to (init containers are not counted).
With -o wide the addresses are shown, too.`,
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		namespace := flags.StringP("namespace", "n", "", "only pods of this namespace")
		return func(ctx context.Context, args []string) error { return s.listPods(ctx, args, *namespace) }
	},
}

func (s *session) listPods(ctx context.Context, args []string, namespace string) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	var shown []*runtimeapi.PodSandbox
	for _, p := range v.pods {
		if namespace == "" || p.GetMetadata().GetNamespace() == namespace {
			shown = append(shown, p)
		}
	}
	if len(args) == 1 {
		p, err := v.pod(args[0])
		if err != nil {
			return err
		}
		shown = []*runtimeapi.PodSandbox{p}
	}
	sort.SliceStable(shown, func(i, j int) bool { return podName(shown[i]) < podName(shown[j]) })
	if done, err := s.structured(&runtimeapi.ListPodSandboxResponse{Items: shown}, ""); done {
		return err
	}
	if len(shown) == 0 {
		fmt.Fprintln(s.Stderr, "No pods found.")
		return nil
	}
	return s.podTable(ctx, v, shown)
}

func (s *session) podTable(ctx context.Context, v *view, pods []*runtimeapi.PodSandbox) error {
	wide := s.output == "wide"
	t := newTable("NAMESPACE", "NAME", "READY", "STATUS", "AGE", "POD ID")
	if wide {
		t = newTable("NAMESPACE", "NAME", "READY", "STATUS", "AGE", "POD ID", "IP", "HANDLER")
	}
	now := time.Now()
	for _, p := range pods {
		ready, status := podState(p, v.of(p.Id))
		row := []string{
			p.GetMetadata().GetNamespace(), p.GetMetadata().GetName(), ready, status, age(now, time.Unix(0, p.CreatedAt)), short(p.Id),
		}
		if wide {
			ips, err := s.podIPs(ctx, p.Id)
			if err != nil {
				return err
			}
			row = append(row, orDash(strings.Join(ips, ",")), orDash(p.RuntimeHandler))
		}
		t.add(row...)
	}
	return t.print(s.Stdout)
}

// podIPs returns a pod's addresses, primary first; none for one on the host's network.
func (s *session) podIPs(ctx context.Context, id string) ([]string, error) {
	client, err := s.runtime(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return nil, fmt.Errorf("ask for pod %s: %w", short(id), err)
	}
	var ips []string
	if ip := answer.GetStatus().GetNetwork().GetIp(); ip != "" {
		ips = append(ips, ip)
	}
	for _, more := range answer.GetStatus().GetNetwork().GetAdditionalIps() {
		ips = append(ips, more.Ip)
	}
	return ips, nil
}

// podState sums a pod up in the words kubectl uses. Of containers of one name the newest counts.
func podState(p *runtimeapi.PodSandbox, containers []*runtimeapi.Container) (ready, status string) {
	newest := map[string]*runtimeapi.Container{}
	for _, c := range containers {
		newest[c.GetMetadata().GetName()] = c
	}
	var total, running, created, inits, initsLeft int
	for _, c := range newest {
		if c.Labels[manifest.RoleLabel] == string(manifest.Init) {
			inits++
			if c.State != runtimeapi.ContainerState_CONTAINER_EXITED {
				initsLeft++
			}
			continue
		}
		total++
		switch c.State {
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			running++
		case runtimeapi.ContainerState_CONTAINER_CREATED:
			created++
		}
	}
	ready = fmt.Sprintf("%d/%d", running, total)
	switch {
	case p.State != runtimeapi.PodSandboxState_SANDBOX_READY:
		return ready, "Stopped"
	case initsLeft > 0 || inits > 0 && total == 0:
		return ready, "Init"
	case running > 0:
		return ready, "Running"
	case created > 0:
		return ready, "Created"
	case total > 0:
		return ready, "Exited"
	}
	return ready, "Empty"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
