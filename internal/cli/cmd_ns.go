package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

var nsCommand = command{
	name: "ns", args: "POD", group: groupPods, min: 1, max: 1,
	brief: "who of a pod shares which namespace",
	long: `A column is the first process of a container, or "pause", the process that holds what the pod shares. A number is
the namespace's own (see "man 7 namespaces"): the same number is the same namespace. This works on the daemon's
machine only.`,
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, args []string) error { return s.namespaces(ctx, args[0]) }
	},
}

// kinds of namespaces by their names below /proc/<pid>/ns, those that pods share first.
var namespaceKinds = []string{"net", "ipc", "uts", "pid", "mnt", "cgroup", "user"}

// member is a process of a pod and the namespaces it is in, by kind.
type member struct {
	Name       string            `json:"name"`
	PID        int               `json:"pid"`
	Namespaces map[string]string `json:"namespaces"`
}

func (s *session) namespaces(ctx context.Context, name string) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	p, err := v.pod(name)
	if err != nil {
		return err
	}
	members, err := s.members(ctx, v, p)
	if err != nil {
		return err
	}
	if done, err := s.structured(members, ""); done {
		return err
	}
	host, err := namespacesOf("self")
	if err != nil {
		return err
	}
	heads := []string{"NAMESPACE"}
	for _, m := range members {
		heads = append(heads, strings.ToUpper(m.Name))
	}
	t := newTable(append(heads, "WHOSE")...)
	pids := []string{"(pid)"}
	for _, m := range members {
		pids = append(pids, fmt.Sprint(m.PID))
	}
	t.add(pids...)
	for _, kind := range namespaceKinds {
		row := []string{kind}
		for _, m := range members {
			row = append(row, m.Namespaces[kind])
		}
		t.add(append(row, whose(kind, members, host[kind]))...)
	}
	return t.print(s.Stdout)
}

// members asks the daemon for the processes and the kernel for their namespaces.
func (s *session) members(ctx context.Context, v *view, p *runtimeapi.PodSandbox) ([]member, error) {
	client, err := s.runtime(ctx)
	if err != nil {
		return nil, err
	}
	pod, err := client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.Id, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("ask for pod %s: %w", podName(p), err)
	}
	var all []member
	if pid := pidOf(pod.Info); pid > 0 {
		all = append(all, member{Name: "pause", PID: pid})
	}
	for _, c := range v.of(p.Id) {
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		answer, err := client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id, Verbose: true})
		if err != nil {
			return nil, fmt.Errorf("ask for container %s: %w", v.containerName(c), err)
		}
		if pid := pidOf(answer.Info); pid > 0 {
			all = append(all, member{Name: c.GetMetadata().GetName(), PID: pid})
		}
	}
	if len(all) == 0 {
		return nil, errs.New(errs.FailedPrecondition, "namespaces of pod %s: no process of it runs", podName(p))
	}
	for i := range all {
		if all[i].Namespaces, err = namespacesOf(fmt.Sprint(all[i].PID)); err != nil {
			return nil, fmt.Errorf("namespaces of %s: %w", all[i].Name, err)
		}
	}
	return all, nil
}

// pidOf reads "pid" from what only a verbose status tells.
func pidOf(info map[string]string) int {
	var told struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(info["info"]), &told); err != nil {
		return 0
	}
	return told.PID
}

func namespacesOf(pid string) (map[string]string, error) {
	all := map[string]string{}
	for _, kind := range namespaceKinds {
		link, err := os.Readlink("/proc/" + pid + "/ns/" + kind)
		if err != nil {
			return nil, err
		}
		all[kind] = strings.TrimSuffix(strings.TrimPrefix(link, kind+":["), "]")
	}
	return all, nil
}

// whose says in words what the numbers of a row mean.
func whose(kind string, members []member, host string) string {
	count := map[string]int{}
	for _, m := range members {
		count[m.Namespaces[kind]]++
	}
	switch {
	case count[host] == len(members):
		return "the host's"
	case len(members) == 1:
		return "its own"
	case len(count) == 1:
		return "the pod's, shared"
	case len(count) == len(members) && count[host] == 0:
		return "each its own"
	case len(count) == len(members):
		return "each its own, or the host's"
	}
	return "some shared"
}
