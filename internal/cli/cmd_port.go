package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"
)

var portCommand = command{
	name: "port", args: "[POD]", group: groupPods, max: 1,
	brief:   "which ports of this machine lead to pods",
	example: "fermata port\nfermata port web",
	build: func(s *session, _ *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, args []string) error { return s.ports(ctx, args) }
	},
}

// mapping is a host port as -o json gives it.
type mapping struct {
	Pod      string `json:"pod"`
	Protocol string `json:"protocol"`
	Port     uint32 `json:"port"`
	HostIP   string `json:"hostIP,omitempty"`
	HostPort uint32 `json:"hostPort"`
}

func (s *session) ports(ctx context.Context, args []string) error {
	tree, err := s.treeOf(ctx, args)
	if err != nil {
		return err
	}
	all := []mapping{}
	for _, p := range tree.Pods {
		for _, m := range p.Ports {
			if p.Ready { // else nothing leads there any more
				all = append(all, mapping{p.Namespace + "/" + p.Name, m.Protocol, m.ContainerPort, m.HostIp, m.HostPort})
			}
		}
	}
	if done, err := s.structured(all, ""); done {
		return err
	}
	t := newTable("POD", "PORT", "HOST")
	for _, m := range all {
		t.add(m.Pod, fmt.Sprintf("%d/%s", m.Port, m.Protocol), fmt.Sprintf("%s:%d", or(m.HostIP, "*"), m.HostPort))
	}
	return t.print(s.Stdout)
}
