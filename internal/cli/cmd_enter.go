package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/suggest"
)

const enterArgs = "POD|CONTAINER [flags] [--] COMMAND [ARG...]"

var enterCommand = command{
	name: "enter", args: enterArgs, group: groupPods, min: 2, max: -1,
	brief: "run a program of this machine's in a pod's namespaces",
	long: `A pod's are its pause's, a container's its first process's. Without flags it is the network's: the program sees the
pod's addresses, ports and routes, and this machine's files. With --mnt the program is the container's own, as with
exec, but without its limits. The exit status is the program's.`,
	example: "sudo fermata enter web -- ss -tlpn\nsudo fermata enter web --net --uts -- tcpdump -i eth0\nsudo fermata enter web/server --pid -- kill -QUIT 1",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		flags.SetInterspersed(false)
		kinds := enterKinds{}
		for _, kind := range []string{"net", "ipc", "uts", "pid", "mnt"} {
			kinds.add(flags, kind)
		}
		container := flags.StringP("container", "c", "", "which container of the pod")
		return func(ctx context.Context, args []string) error {
			if err := parse(flags, args[1:], "fermata enter --help"); err != nil {
				return err
			}
			if flags.NArg() == 0 {
				return misused("usage: fermata enter %s", enterArgs)
			}
			chosen, err := kinds.chosen()
			if err != nil {
				return err
			}
			return s.enter(ctx, args[0], &enterOptions{*container, chosen, flags.Args()})
		}
	},
}

// enterKinds are the flags --net, --ipc and so on; each takes more after it: --net=ipc,uts.
type enterKinds map[string]*string

func (k enterKinds) add(flags *pflag.FlagSet, kind string) {
	k[kind] = flags.String(kind, "", "enter its "+kind+" namespace")
	flags.Lookup(kind).NoOptDefVal = kind
}

func (k enterKinds) chosen() ([]string, error) {
	wanted := map[string]bool{}
	for kind, value := range k {
		if *value == "" {
			continue
		}
		wanted[kind] = true
		for more := range strings.SplitSeq(*value, ",") {
			if k[more] == nil {
				return nil, misused("--%s=%s: %q is no kind of namespace%s", kind, *value, more, suggest.DidYouMean(more, namespaceKinds[:5]))
			}
			wanted[more] = true
		}
	}
	if len(wanted) == 0 {
		return []string{"net"}, nil
	}
	var all []string
	for _, kind := range namespaceKinds {
		if wanted[kind] {
			all = append(all, kind)
		}
	}
	return all, nil
}

type enterOptions struct {
	container string
	kinds     []string
	cmd       []string
}

// enterFlags are the kinds as setns(2) takes them.
var enterFlags = map[string]int{
	"net": linux.CloneNewNet, "ipc": linux.CloneNewIPC, "uts": linux.CloneNewUTS, "pid": linux.CloneNewPID, "mnt": linux.CloneNewMount,
}

func (s *session) enter(ctx context.Context, name string, o *enterOptions) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	podID, containerID, err := v.podOrContainer(name, o.container)
	if err != nil {
		return err
	}
	list, err := s.listNamespaces(ctx, &fermatav1.ListNamespacesRequest{PodId: podID})
	if err != nil {
		return err
	}
	e := &entering{options: o, session: s}
	defer func() { linux.CloseAll(e.open...) }()
	for _, kind := range o.kinds {
		if err := e.find(list, kind, podID, containerID); err != nil {
			return fmt.Errorf("enter the %s namespace of %s: %w", kind, name, err)
		}
	}
	return e.run()
}

// podOrContainer finds a container if name says one, else a pod, whose container is "".
func (v *view) podOrContainer(name, in string) (podID, containerID string, err error) {
	if in == "" {
		if p, err := v.pod(name); err == nil {
			return p.Id, "", nil
		} else if errs.Is(err, errs.InvalidArgument) {
			return "", "", err
		}
	}
	c, err := v.container(name, in)
	if err != nil {
		return "", "", err
	}
	return c.PodSandboxId, c.Id, nil
}

// entering is a program on its way into namespaces.
type entering struct {
	*session
	options *enterOptions
	open    []*linux.FD
}

// find opens a pause's or a container's first process's namespace. It must be the one that the daemon named: a PID may be reused.
func (e *entering) find(list []*fermatav1.Namespace, kind, podID, containerID string) error {
	for _, n := range list {
		for _, p := range n.Processes {
			first := p.Role == fermatav1.Process_PAUSE || p.Role == fermatav1.Process_FIRST
			if n.Kind != kind || !first || p.PodId != podID || p.ContainerId != containerID {
				continue
			}
			fd, err := linux.NamespaceOf(int(p.Pid), kind)
			if err != nil {
				return err
			}
			e.open = append(e.open, fd)
			st, err := fd.Stat()
			if err == nil && st.Inode != n.Inode {
				err = errs.New(errs.FailedPrecondition, "its process has ended")
			}
			return err
		}
	}
	return errs.New(errs.FailedPrecondition, "no process of it runs")
}

// run runs the program to its end. Ctrl-C is for the program, which is in the same process group.
func (e *entering) run() error {
	var cmd *exec.Cmd
	err := linux.OnThrowAwayThread(func() error {
		for i, fd := range e.open {
			if err := fd.Setns(enterFlags[e.options.kinds[i]]); err != nil {
				return err
			}
		}
		cmd = exec.Command(e.options.cmd[0], e.options.cmd[1:]...) // looked for in the mount namespace entered
		cmd.Stdin, cmd.Stdout, cmd.Stderr = e.Stdin, e.Stdout, e.Stderr
		return cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("run %s: %w", e.options.cmd[0], err)
	}
	err = cmd.Wait()
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		return err
	}
	if status, ok := ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &exit{128 + int(status.Signal())}
	}
	return &exit{ended.ExitCode()}
}
