package stream

import (
	"context"
	"io"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"fermata/internal/pod"
)

// exec holds the session of a command; it reports whether the token was for one.
func (s *Server) exec(c *session, request any) bool {
	req, ok := request.(*runtimeapi.ExecRequest)
	if !ok {
		return false
	}
	o := &remotecommand.Options{Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(), TTY: req.GetTty()}
	do := &command{c, o, req.GetContainerId(), req.GetCmd()}
	if c.ours(do, do.exec) {
		return true
	}
	remotecommand.ServeExec(c, c.request, do, "", "", do.id, do.cmd, o, idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	return true
}

// attach holds the session with a container.
func (s *Server) attach(c *session, request any) bool {
	req, ok := request.(*runtimeapi.AttachRequest)
	if !ok {
		return false
	}
	o := &remotecommand.Options{Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(), TTY: req.GetTty()}
	do := &command{c, o, req.GetContainerId(), nil}
	if c.ours(do, do.attach) {
		return true
	}
	remotecommand.ServeAttach(c, c.request, do, "", "", do.id, o, idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	return true
}

// ours holds a session in a protocol that is spoken here: all but the elder ones over WebSocket.
func (c *session) ours(d *command, do func(*pod.Streams) error) bool {
	switch {
	case wsstream.IsWebSocketRequestWithStreamCloseProtocol(c.request):
		c.webSocket(d, do)
	case !wsstream.IsWebSocketRequest(c.request):
		c.spdy(d, do)
	default:
		return false
	}
	return true
}

// command is what a session of exec or attach does once its streams are there.
type command struct {
	c   *session
	o   *remotecommand.Options
	id  string
	cmd []string
}

var (
	_ remotecommand.Executor = (*command)(nil)
	_ remotecommand.Attacher = (*command)(nil)
)

// ExecInContainer implements remotecommand.Executor.
func (d *command) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return d.exec(d.streams(in, out, err, resize))
}

// AttachContainer implements remotecommand.Attacher.
func (d *command) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return d.attach(d.streams(in, out, err, resize))
}

func (d *command) exec(s *pod.Streams) error {
	code, err := d.c.server.runtime.Exec(d.c.ctx, d.id, d.cmd, s)
	if err == nil && code != 0 {
		return exitCode(code)
	}
	if d.c.ctx.Err() != nil {
		return nil // nobody is there to be told
	}
	return err
}

func (d *command) attach(s *pod.Streams) error { return d.c.server.runtime.Attach(d.c.ctx, d.id, s) }

// exitCode is a command's end that is not success, as remotecommand knows it (k8s.io/utils/exec.ExitError).
type exitCode int

// Error implements error.
func (e exitCode) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// String implements k8s.io/utils/exec.ExitError.
func (e exitCode) String() string { return e.Error() }

// Exited implements k8s.io/utils/exec.ExitError.
func (e exitCode) Exited() bool { return true }

// ExitStatus implements k8s.io/utils/exec.ExitError.
func (e exitCode) ExitStatus() int { return int(e) }

// streams are a client's streams as pods know them: those that were asked for, whatever else there is.
func (d *command) streams(in io.Reader, out, err io.WriteCloser, sizes <-chan remotecommand.TerminalSize) *pod.Streams {
	s := &pod.Streams{TTY: d.o.TTY}
	if d.o.Stdin {
		s.Stdin = in
	}
	if d.o.Stdout {
		s.Stdout = out
	}
	if d.o.Stderr {
		s.Stderr = err
	}
	if sizes != nil {
		s.Resize = d.c.sizes(sizes)
	}
	return s
}

// sizes translates a terminal's sizes, until they or the session end.
func (c *session) sizes(from <-chan remotecommand.TerminalSize) <-chan pod.TerminalSize {
	to := make(chan pod.TerminalSize)
	c.server.work.Go(func() {
		defer close(to)
		for {
			select {
			case size, ok := <-from:
				if !ok {
					return
				}
				select {
				case to <- pod.TerminalSize{Width: size.Width, Height: size.Height}:
				case <-c.ctx.Done():
					return
				}
			case <-c.ctx.Done():
				return
			}
		}
	})
	return to
}
