package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var execCommand = command{
	name: "exec", args: "[flags] POD|CONTAINER [-c NAME] [--] COMMAND [ARG...]", group: groupPods, min: 2, max: -1,
	brief: "run a command in a container",
	long: `What it writes is shown as it comes; the exit status is the command's. It has no input unless -i is given, and no
terminal unless -t is. Ctrl-C ends it, with all that it started; at a terminal (-it) every key is the command's.`,
	example: "sudo fermata exec -it web sh\nsudo fermata exec web -c server -- ls -l /\nsudo fermata exec -i web/server tar x < files.tar",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		flags.SetInterspersed(false) // flags stand around the container's name; what comes after the command's is the command's
		o := &execOptions{}
		flags.BoolVarP(&o.stdin, "stdin", "i", false, "give it this command's standard input")
		flags.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
		flags.StringVarP(&o.container, "container", "c", "", "which container of the pod")
		flags.DurationVar(&o.timeout, "timeout", 0, "kill the command after this time (default never)")
		return func(ctx context.Context, args []string) error {
			name := args[0]
			if err := parse(flags, args[1:], "fermata exec --help"); err != nil {
				return err
			}
			if o.cmd = flags.Args(); len(o.cmd) == 0 {
				return misused("usage: fermata exec %s", "[flags] POD|CONTAINER [-c NAME] [--] COMMAND [ARG...]")
			}
			return s.exec(ctx, name, o)
		}
	},
}

type execOptions struct {
	stdin, tty bool
	container  string
	timeout    time.Duration
	cmd        []string
}

// interrupted is the status of a program that Ctrl-C ended.
const interrupted = 130

// withTimeout ends a context after a time, 0 for never, with context.DeadlineExceeded for its cause. The other side is not told of the time, as by
// context.WithTimeout: its error would come first and say less.
func withTimeout(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	if after <= 0 {
		return ctx, func() { end(nil) }
	}
	timer := time.AfterFunc(after, func() { end(context.DeadlineExceeded) })
	return ctx, func() { timer.Stop(); end(nil) }
}

func (s *session) exec(ctx context.Context, name string, o *execOptions) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	c, err := v.container(name, o.container)
	if err != nil {
		return err
	}
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx, o.timeout)
	defer cancel()
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	stream, err := client.Exec(ctx)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", v.containerName(c), err)
	}
	start := &fermatav1.ExecStart{ContainerId: c.Id, Command: o.cmd, Stdin: o.stdin, Tty: o.tty}
	if o.tty && s.Console != nil {
		start.Size = terminalSize(s.Console.size())
	}
	code, err := s.talk(stream, start, leave)
	switch cause := context.Cause(ctx); {
	case err == nil && code == 0:
		return nil
	case err == nil:
		return &exit{code}
	case errors.Is(cause, context.DeadlineExceeded):
		return fmt.Errorf("exec in %s: the command took longer than %v and was killed", v.containerName(c), o.timeout)
	case errors.Is(cause, context.Canceled):
		return &exit{interrupted}
	case cause != nil:
		err = cause
	}
	return fmt.Errorf("exec in %s: %w", v.containerName(c), err)
}

// talk holds the session of a command and returns its exit code.
func (s *session) talk(stream fermatav1.Fermata_ExecClient, start *fermatav1.ExecStart, leave func(error)) (int, error) {
	if err := stream.Send(&fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	} // after io.EOF Recv says what was wrong
	in := &input{send: func(m *fermatav1.Input) error {
		return stream.Send(&fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Input{Input: m}})
	}}
	if start.Tty && s.Console != nil {
		defer in.sizes(s.Console)()
		if start.Stdin {
			restore, err := s.Console.raw()
			if err != nil {
				return 0, err
			}
			defer restore()
		}
	}
	if start.Stdin {
		go func() {
			if err := in.bytes(s.Stdin); err != nil {
				leave(err)
			}
		}()
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return 0, err
		}
		switch m := m.GetMessage().(type) {
		case *fermatav1.ExecResponse_Stdout:
			_, err = s.Stdout.Write(m.Stdout)
		case *fermatav1.ExecResponse_Stderr:
			_, err = s.Stderr.Write(m.Stderr)
		case *fermatav1.ExecResponse_ExitCode:
			return int(m.ExitCode), nil
		}
		if err != nil {
			return 0, err
		}
	}
}
