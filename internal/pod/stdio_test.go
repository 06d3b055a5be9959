package pod

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
)

// fakeStdio is a container's standard streams as the keeper holds them: what its process would do, the test does.
type fakeStdio struct {
	t  *testing.T
	mu sync.Mutex
	// followers are the pipes that output is copied to, by stream.
	followers [2][]*linux.FD
	// keepers is the keeper's own writing end of stdin, process the container's end of it.
	keepers *os.File
	process *linux.FD
	// master and slave are its terminal; nil without one.
	master, slave *linux.FD
	// followed is told of each new follower.
	followed chan struct{}
}

// withStdio gives a node's containers streams; all are one's.
func (n *node) withStdio(tty bool) *fakeStdio {
	n.t.Helper()
	f := &fakeStdio{t: n.t, followed: make(chan struct{}, 10)}
	var err error
	if tty {
		f.master, f.slave = terminal(n.t)
		if err := f.master.SetNonblock(true); err != nil {
			n.t.Fatal(err)
		}
	} else if f.process, f.keepers, err = linux.InputPipe(); err != nil {
		n.t.Fatal(err)
	}
	n.Manager.Stdio = f
	n.t.Cleanup(func() {
		f.end()
		linux.CloseAll(f.master, f.slave, f.process)
		if f.keepers != nil {
			f.keepers.Close()
		}
	})
	return f
}

func terminal(t *testing.T) (master, slave *linux.FD) {
	t.Helper()
	devpts, err := linux.OpenDir("/dev/pts")
	if err != nil {
		t.Fatal(err)
	}
	defer devpts.Close()
	if master, slave, err = devpts.NewTerminal(); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (f *fakeStdio) Follow(_ context.Context, _ string, stdout, stderr *linux.FD) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fd := range []*linux.FD{stdout, stderr} {
		if fd == nil {
			continue
		}
		own, err := fd.Dup()
		if err != nil {
			return err
		}
		f.followers[i] = append(f.followers[i], own)
	}
	f.followed <- struct{}{}
	return nil
}

func (f *fakeStdio) Console(context.Context, string) (*linux.FD, error) { return f.master.Dup() }

func (f *fakeStdio) Stdin(context.Context, string) (*linux.FD, error) {
	return linux.DupConn(f.keepers)
}

func (f *fakeStdio) CloseStdin(context.Context, string) error { return f.keepers.Close() }

// write is what the container writes to stdout (0) or stderr (1).
func (f *fakeStdio) write(stream int, text string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range f.followers[stream] {
		if _, err := fd.WriteNow([]byte(text)); err != nil && !errors.Is(err, syscall.EPIPE) {
			f.t.Error(err)
		}
	}
}

// end is the end of the container's output, or of the keeper.
func (f *fakeStdio) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	linux.CloseAll(f.followers[0]...)
	linux.CloseAll(f.followers[1]...)
	f.followers = [2][]*linux.FD{}
}

// read is what the container reads at its stdin, n bytes at most; "" is the end.
func (f *fakeStdio) read(n int) string {
	f.t.Helper()
	from := f.process
	if f.slave != nil {
		from = f.slave
	}
	buf := make([]byte, n)
	n, err := from.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		f.t.Fatal(err)
	}
	return string(buf[:n])
}

// client is one of a container's or a command's.
type client struct {
	t       *testing.T
	streams *Streams
	typed   *io.PipeWriter
	out     [2]*io.PipeReader
	sizes   chan TerminalSize
	leave   context.CancelFunc
	ended   chan error
	code    int // an exec's, after ended
}

// newClient has all streams a client can have, and begins a session.
func newClient(t *testing.T, tty bool, session func(ctx context.Context, c *client) error) *client {
	t.Helper()
	c := &client{t: t, sizes: make(chan TerminalSize), ended: make(chan error, 1)}
	in, typed := io.Pipe()
	var writers [2]*io.PipeWriter
	c.typed = typed
	for i := range c.out {
		c.out[i], writers[i] = io.Pipe()
	}
	c.streams = &Streams{Stdin: in, Stdout: writers[0], TTY: tty, Resize: c.sizes}
	if !tty {
		c.streams.Stderr = writers[1]
	}
	var ctx context.Context
	ctx, c.leave = context.WithCancel(t.Context())
	go func() {
		err := session(ctx, c)
		// As at a connection's end.
		in.CloseWithError(io.ErrClosedPipe)
		writers[0].Close()
		writers[1].Close()
		c.ended <- err
	}()
	t.Cleanup(func() {
		c.leave()
		typed.CloseWithError(io.ErrUnexpectedEOF)
		c.out[0].Close()
		c.out[1].Close()
	})
	return c
}

// sees reads exactly what must come.
func (c *client) sees(stream int, want string) {
	c.t.Helper()
	buf := make([]byte, len(want))
	n, err := io.ReadFull(c.out[stream], buf)
	if string(buf[:n]) != want {
		c.t.Errorf("the client saw %q (%v), want %q", buf[:n], err, want)
	}
}

func (c *client) types(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.typed, text); err != nil {
		c.t.Error(err)
	}
}

// end waits for the session's.
func (c *client) end() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(20 * time.Second):
		c.t.Fatal("the session does not end")
		return nil
	}
}

// realExecs makes a node's execs processes of the machine's.
func (n *node) realExecs() {
	n.runtime.launch = func(e *ExecStart) (*Process, error) {
		cmd := exec.Command(e.Process.Args[0], e.Process.Args[1:]...)
		p := &Process{Started: time.Now()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		var theirs []*os.File
		defer func() {
			for _, f := range theirs {
				f.Close()
			}
		}()
		if e.Process.Terminal {
			master, slave := terminal(n.t)
			if size := e.Process.ConsoleSize; size != nil {
				if err := master.SetTerminalSize(uint16(size.Height), uint16(size.Width)); err != nil {
					n.t.Error(err)
				}
			}
			tty := slave.File()
			theirs, p.Console, cmd.SysProcAttr.Setctty = append(theirs, tty), master, true
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		} else {
			for _, s := range []struct {
				from *linux.FD
				to   func(*os.File)
			}{{e.Stdin, func(f *os.File) { cmd.Stdin = f }}, {e.Stdout, func(f *os.File) { cmd.Stdout = f }}, {e.Stderr, func(f *os.File) { cmd.Stderr = f }}} {
				if s.from == nil {
					continue
				}
				fd, err := s.from.Dup()
				if err != nil {
					return nil, err
				}
				theirs = append(theirs, fd.File())
				s.to(theirs[len(theirs)-1])
			}
		}
		if err := cmd.Start(); err != nil {
			p.Console.Close()
			n.runtime.end(Exit{ID: e.ID, Code: 127})
			return nil, err
		}
		var err error
		p.PID = cmd.Process.Pid
		if p.Pidfd, err = linux.OpenPidfd(p.PID); err != nil {
			return nil, err
		}
		go func() {
			cmd.Wait()
			code := cmd.ProcessState.ExitCode()
			if code < 0 {
				code = 137
			}
			n.runtime.end(Exit{ID: e.ID, Code: code, Finished: time.Now()})
		}()
		return p, nil
	}
}
