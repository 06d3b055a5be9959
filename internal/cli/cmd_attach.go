package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var attachCommand = command{
	name: "attach", args: "[flags] POD|CONTAINER", group: groupPods, min: 1, max: 1,
	brief: "talk to a container's own process",
	long: `What the container writes from now on is shown ("fermata logs" shows what came before), and what is typed is its
input, if it was made with one (stdin: true). If it has a terminal (tty: true) every key is the container's, but the
keys that detach; without one Ctrl-C detaches. The container goes on when you leave, unless it has stdinOnce and ends with its input.`,
	example: "sudo fermata attach web\nsudo fermata attach --no-stdin web -c server",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		o := &attachOptions{}
		flags.StringVarP(&o.container, "container", "c", "", "which container of the pod")
		flags.BoolVar(&o.noStdin, "no-stdin", false, "only watch")
		keys := flags.String("detach-keys", defaultDetachKeys, "keys that detach from a terminal; \"\" for none")
		for name, letter := range map[string]string{"stdin": "i", "tty": "t"} { // as kubectl is told to; here it follows from the container
			flags.BoolP(name, letter, false, "")
			flags.Lookup(name).Hidden = true
		}
		return func(ctx context.Context, args []string) (err error) {
			if o.keys, err = detachKeys(*keys); err != nil {
				return err
			}
			return s.attach(ctx, args[0], o)
		}
	},
}

type attachOptions struct {
	container string
	noStdin   bool
	keys      []byte
}

func (s *session) attach(ctx context.Context, name string, o *attachOptions) error {
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
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	stream, err := client.Attach(ctx)
	if err != nil {
		return fmt.Errorf("attach to %s: %w", v.containerName(c), err)
	}
	a := &attachment{s, o, v.containerName(c), stream, leave}
	err = a.talk(&fermatav1.AttachStart{ContainerId: c.Id, Stdin: !o.noStdin})
	switch cause := context.Cause(ctx); {
	case errors.Is(err, io.EOF): // the container's end
		return nil
	case errors.Is(cause, errDetached):
		fmt.Fprintf(s.Stderr, "\ndetached from %s, which goes on\n", a.name)
		return nil
	case errors.Is(cause, context.Canceled):
		return &exit{interrupted}
	case cause != nil:
		err = cause
	}
	return fmt.Errorf("attach to %s: %w", a.name, err)
}

// attachment is a session with a container.
type attachment struct {
	*session
	options *attachOptions
	name    string
	stream  fermatav1.Fermata_AttachClient
	leave   func(error)
}

// talk returns io.EOF at the session's end.
func (a *attachment) talk(start *fermatav1.AttachStart) error {
	err := a.stream.Send(&fermatav1.AttachRequest{Message: &fermatav1.AttachRequest_Start{Start: start}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	} // after io.EOF Recv says what was wrong
	first, err := a.stream.Recv()
	if err != nil {
		return err
	}
	restore, err := a.begin(first.GetAttached())
	if err != nil {
		return err
	}
	defer restore()
	for {
		m, err := a.stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *fermatav1.AttachResponse_Stdout:
			_, err = a.Stdout.Write(m.Stdout)
		case *fermatav1.AttachResponse_Stderr:
			_, err = a.Stderr.Write(m.Stderr)
		}
		if err != nil {
			return err
		}
	}
}

// begin connects input and terminal with what the container has.
func (a *attachment) begin(has *fermatav1.Attached) (restore func(), err error) {
	in := &input{send: func(m *fermatav1.Input) error {
		return a.stream.Send(&fermatav1.AttachRequest{Message: &fermatav1.AttachRequest_Input{Input: m}})
	}}
	from, restore := a.Stdin, func() {}
	if has.GetTty() && a.Console != nil {
		a.redraw(in)
		stop := in.sizes(a.Console)
		restore = stop
		if has.GetStdin() {
			a.hint()
			cook, err := a.Console.raw()
			if err != nil {
				stop()
				return nil, err
			}
			restore = func() { stop(); cook() }
			if len(a.options.keys) > 0 {
				from = &detacher{from: a.Stdin, keys: a.options.keys}
			}
		}
	}
	if has.GetStdin() {
		go func() {
			if err := in.bytes(from); err != nil {
				a.leave(err)
			}
		}()
	}
	return restore, nil
}

// redraw tells the size twice: what draws on the whole screen only draws again when the size becomes another.
func (a *attachment) redraw(in *input) {
	columns, rows := a.Console.size()
	in.size(columns+1, rows+1)
	in.size(columns, rows)
}

func (a *attachment) hint() {
	how := "detach with Ctrl-P Ctrl-Q"
	switch string(a.options.keys) {
	case "":
		how = "there are no keys to detach"
	case "\x10\x11":
	default:
		how = "detach with your --detach-keys"
	}
	fmt.Fprintf(a.Stderr, "attached to %s; %s; Enter may bring a prompt\n", a.name, how)
}
