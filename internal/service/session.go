package service

import (
	"context"
	"errors"
	"io"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/errs"
	"fermata/internal/pod"
)

// Runtime is what sessions are with (package pod's Manager). Each method but Takes returns when the session has ended; the end of its
// context is the client's leaving.
type Runtime interface {
	Exec(ctx context.Context, containerID string, cmd []string, s *pod.Streams) (code int, err error)
	Takes(containerID string) (tty, stdin bool, err error)
	Attach(ctx context.Context, containerID string, s *pod.Streams) error
	PortForward(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error
}

var _ Runtime = (*pod.Manager)(nil)

// session returns a context that ends with the client and with the service.
func (s *Service) session(client context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(client)
	stop := context.AfterFunc(s.ctx, func() { cancel(errEnding) })
	return ctx, func() { stop(); cancel(nil) }
}

var errEnding = errs.New(errs.Unavailable, "the daemon is ending")

// verdict is a session's error: the daemon's end is said as such, whatever it broke.
func verdict(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errEnding) {
		return cause
	}
	return err
}

// Exec runs a command with a client's streams.
func (s *Service) Exec(stream fermatav1.Fermata_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return notBegun(err)
	}
	start := first.GetStart()
	if start.GetContainerId() == "" {
		return errs.New(errs.InvalidArgument, "exec: the first message must be start, with a container_id")
	}
	ctx, cancel := s.session(stream.Context())
	defer cancel()
	in := newInput()
	defer in.close()
	go in.receive(func() (*fermatav1.Input, error) { m, err := stream.Recv(); return m.GetInput(), err })
	streams := &pod.Streams{TTY: start.GetTty(), Size: size(start.GetSize()), Resize: in.sizes, Stdout: sender(func(p []byte) error {
		return stream.Send(&fermatav1.ExecResponse{Message: &fermatav1.ExecResponse_Stdout{Stdout: p}})
	})}
	if start.GetStdin() {
		streams.Stdin = in.reader
	}
	if !start.GetTty() {
		streams.Stderr = sender(func(p []byte) error {
			return stream.Send(&fermatav1.ExecResponse{Message: &fermatav1.ExecResponse_Stderr{Stderr: p}})
		})
	}
	streams.Stdout, streams.Stderr = oneAtATime(streams.Stdout, streams.Stderr)
	code, err := s.runtime.Exec(ctx, start.GetContainerId(), start.GetCommand(), streams)
	if err != nil {
		return verdict(ctx, err)
	}
	return stream.Send(&fermatav1.ExecResponse{Message: &fermatav1.ExecResponse_ExitCode{ExitCode: int32(code)}})
}

// Attach gives a client a container's own streams.
func (s *Service) Attach(stream fermatav1.Fermata_AttachServer) error {
	first, err := stream.Recv()
	if err != nil {
		return notBegun(err)
	}
	start := first.GetStart()
	if start.GetContainerId() == "" {
		return errs.New(errs.InvalidArgument, "attach: the first message must be start, with a container_id")
	}
	tty, stdin, err := s.runtime.Takes(start.GetContainerId())
	if err != nil {
		return err
	}
	attached := &fermatav1.Attached{Tty: tty, Stdin: stdin && start.GetStdin()}
	if err := stream.Send(&fermatav1.AttachResponse{Message: &fermatav1.AttachResponse_Attached{Attached: attached}}); err != nil {
		return err
	}
	ctx, cancel := s.session(stream.Context())
	defer cancel()
	in := newInput()
	defer in.close()
	in.resize(start.GetSize())
	go in.receive(func() (*fermatav1.Input, error) { m, err := stream.Recv(); return m.GetInput(), err })
	streams := &pod.Streams{TTY: tty, Resize: in.sizes, Stdout: sender(func(p []byte) error {
		return stream.Send(&fermatav1.AttachResponse{Message: &fermatav1.AttachResponse_Stdout{Stdout: p}})
	})}
	if attached.Stdin {
		streams.Stdin = in.reader
	}
	if !tty {
		streams.Stderr = sender(func(p []byte) error {
			return stream.Send(&fermatav1.AttachResponse{Message: &fermatav1.AttachResponse_Stderr{Stderr: p}})
		})
	}
	streams.Stdout, streams.Stderr = oneAtATime(streams.Stdout, streams.Stderr)
	return verdict(ctx, s.runtime.Attach(ctx, start.GetContainerId(), streams))
}

// notBegun is the error of a session whose client said nothing.
func notBegun(err error) error {
	if errors.Is(err, io.EOF) {
		return errs.New(errs.InvalidArgument, "begin session: there was no first message")
	}
	return err
}

// input is what a client sends, parted into the bytes and the sizes.
type input struct {
	reader *io.PipeReader
	writer *io.PipeWriter
	// sizes holds the newest one until it is taken.
	sizes chan pod.TerminalSize
}

func newInput() *input {
	r, w := io.Pipe()
	return &input{r, w, make(chan pod.TerminalSize, 1)}
}

// receive parts messages until there are no more; it ends with the call that the messages are of.
func (in *input) receive(next func() (*fermatav1.Input, error)) {
	for {
		m, err := next()
		if errors.Is(err, io.EOF) {
			in.writer.Close()
			return
		}
		if err != nil {
			in.writer.CloseWithError(err)
			return
		}
		switch m := m.GetInput().(type) {
		case *fermatav1.Input_Data:
			_, _ = in.writer.Write(m.Data) // nobody reads it any more: sizes may still come
		case *fermatav1.Input_End:
			in.writer.Close()
		case *fermatav1.Input_Size:
			in.resize(m.Size)
		}
	}
}

func (in *input) resize(to *fermatav1.TerminalSize) {
	if size(to) == (pod.TerminalSize{}) {
		return
	}
	select {
	case <-in.sizes: // an older one
	default:
	}
	in.sizes <- size(to)
}

// close lets go of whoever waits for bytes to be read, or for more.
func (in *input) close() {
	in.reader.Close()
	in.writer.Close()
}

// size is in the pod's words; what does not fit is no size.
func size(s *fermatav1.TerminalSize) pod.TerminalSize {
	const most = 1<<16 - 1
	if s.GetColumns() > most || s.GetRows() > most {
		return pod.TerminalSize{}
	}
	return pod.TerminalSize{Width: uint16(s.GetColumns()), Height: uint16(s.GetRows())}
}
