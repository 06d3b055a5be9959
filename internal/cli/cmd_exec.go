package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var execCommand = command{
	name: "exec", args: "[flags] POD|CONTAINER [--] COMMAND [ARG...]", group: groupPods, min: 2, max: -1,
	brief: "run a command in a container and show what it wrote",
	long: `The command has no input and no terminal; what it wrote is shown when it has ended (16 MiB of each stream at most).
The exit status is the command's.`,
	example: "sudo fermata exec web -c server -- ls -l /\nsudo fermata exec --timeout 5s web/server cat /etc/hosts",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		flags.SetInterspersed(true) // `exec web -c server -- cmd` as kubectl takes it; flags of the command come after --
		container := flags.StringP("container", "c", "", "which container of the pod")
		timeout := flags.Duration("timeout", 0, "kill the command after this time (default never)")
		return func(ctx context.Context, args []string) error { return s.exec(ctx, args, *container, *timeout) }
	},
}

func (s *session) exec(ctx context.Context, args []string, in string, timeout time.Duration) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	c, err := v.container(args[0], in)
	if err != nil {
		return err
	}
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	wait := int64((timeout + time.Second - 1) / time.Second) // CRI counts in whole seconds, and 0 is for ever
	answer, err := client.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.Id, Cmd: args[1:], Timeout: wait})
	if err != nil {
		return fmt.Errorf("exec in %s: %w", v.containerName(c), err)
	}
	if _, err := s.Stdout.Write(answer.Stdout); err != nil {
		return err
	}
	if _, err := s.Stderr.Write(answer.Stderr); err != nil {
		return err
	}
	if answer.ExitCode != 0 {
		return &exit{int(answer.ExitCode)}
	}
	return nil
}
