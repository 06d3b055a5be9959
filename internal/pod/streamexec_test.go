package pod

import (
	"context"
	"io"
	"strings"
	"testing"

	"fermata/internal/errs"
)

func (n *node) exec(id string, tty bool, change func(*Streams), cmd ...string) *client {
	n.t.Helper()
	return newClient(n.t, tty, func(ctx context.Context, c *client) (err error) {
		if change != nil {
			change(c.streams)
		}
		c.code, err = n.Exec(ctx, id, cmd, c.streams)
		return err
	})
}

// finished wants a command's own end.
func (c *client) finished(code int) {
	c.t.Helper()
	if err := c.end(); err != nil || c.code != code {
		c.t.Errorf("exit code %d (%v), want %d", c.code, err, code)
	}
}

// noExecs wants every command forgotten.
func (n *node) noExecs() {
	n.t.Helper()
	n.mu.RLock()
	defer n.mu.RUnlock()
	if len(n.execs) != 0 {
		n.t.Errorf("%d commands are left", len(n.execs))
	}
}

func TestExecIsInARunningContainer(t *testing.T) {
	n := newNode(t)
	_, ended := n.running("a")
	if err := n.StopContainer(t.Context(), ended, 0); err != nil {
		t.Fatal(err)
	}
	_, id := n.running("b")
	for _, c := range []struct {
		name, id string
		cmd      []string
		kind     errs.Kind
	}{
		{"that has ended", ended, []string{"true"}, errs.FailedPrecondition},
		{"that is none", "none", []string{"true"}, errs.NotFound},
		{"without a command", id, nil, errs.InvalidArgument},
		{"with an empty one", id, []string{""}, errs.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := n.Exec(t.Context(), c.id, c.cmd, &Streams{Stdout: io.Discard}); !errs.Is(err, c.kind) {
				t.Errorf("%v, want %v", err, c.kind)
			}
		})
	}
}

func TestExecsStreamsAreTheCommands(t *testing.T) {
	n := newNode(t)
	n.realExecs()
	_, id := n.running("a")
	t.Run("input with its end, both outputs, the exit code", func(t *testing.T) {
		c := n.exec(id, false, nil, "sh", "-c", "cat; echo complaint >&2; exit 7")
		c.types("given\n")
		c.typed.Close()
		c.sees(0, "given\n")
		c.sees(1, "complaint\n")
		c.finished(7)
	})
	t.Run("streams that the client has not", func(t *testing.T) {
		c := n.exec(id, false, func(s *Streams) { s.Stdin, s.Stdout = nil, nil }, "sh", "-c", "cat; echo unheard; echo heard >&2")
		c.sees(1, "heard\n")
		c.finished(0)
	})
	t.Run("a terminal, of its size from the start, and ^D for the end of input", func(t *testing.T) {
		c := n.exec(id, true, func(s *Streams) { s.Size = TerminalSize{Width: 111, Height: 37} }, "sh", "-c", "stty size; cat; exit 3")
		c.sees(0, "37 111\r\n")
		c.types("half a line")
		c.typed.Close()
		c.sees(0, "half a line") // the echo
		c.sees(0, "half a line")
		c.finished(3)
	})
	t.Run("sizes that come later", func(t *testing.T) {
		c := n.exec(id, true, nil, "sh", "-c", "read go; stty size")
		c.sizes <- TerminalSize{Width: 111, Height: 37}
		c.sizes <- TerminalSize{Width: 80, Height: 25}
		c.sizes <- TerminalSize{Width: 80, Height: 25} // taken: the one before is in force
		c.types("go\n")
		c.sees(0, "go\r\n25 80\r\n")
		c.finished(0)
	})
	t.Run("a command that cannot be launched", func(t *testing.T) {
		c := n.exec(id, false, nil, "/nonexistent")
		if err := c.end(); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
			t.Errorf("%v", err)
		}
		c = n.exec(id, true, nil, "/nonexistent")
		if err := c.end(); err == nil {
			t.Error("no error")
		}
	})
	n.noExecs()
}

func TestACommandDoesNotOutliveItsClient(t *testing.T) {
	n := newNode(t)
	n.realExecs()
	_, id := n.running("a")
	for _, tty := range []bool{false, true} {
		t.Run("that leaves", func(t *testing.T) {
			c := n.exec(id, tty, nil, "sh", "-c", "echo ready; exec sleep 1000")
			c.sees(0, "ready")
			c.leave()
			if err := c.end(); !errs.Is(err, errs.Canceled) {
				t.Errorf("%v", err)
			}
		})
		t.Run("that takes no output any more", func(t *testing.T) {
			c := n.exec(id, tty, nil, "sh", "-c", "yes")
			c.sees(0, "y")
			c.out[0].Close()
			if err := c.end(); !errs.Is(err, errs.Canceled) {
				t.Errorf("%v", err)
			}
		})
		t.Run("that leaves without ever having read", func(t *testing.T) {
			c := n.exec(id, tty, nil, "sh", "-c", "yes")
			c.types("x")
			c.leave()
			if err := c.end(); !errs.Is(err, errs.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
	n.noExecs()
}

func TestACommandEndsWithoutItsInput(t *testing.T) {
	n := newNode(t)
	n.realExecs()
	_, id := n.running("a")
	c := n.exec(id, false, nil, "sh", "-c", "read line; echo $line")
	c.types("one\n")
	c.sees(0, "one\n")
	go io.Copy(c.typed, strings.NewReader(strings.Repeat("nobody reads this\n", 20_000))) // ends with the session
	c.finished(0)
	n.noExecs()
}

// kubernetes #92057: what a command leaves behind has its output open, and is not waited for.
func TestAnOutputThatStaysOpenIsNotWaitedFor(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	held := make(chan io.Closer, 1)
	n.runtime.launch = func(e *ExecStart) (*Process, error) {
		out, err := e.Stdout.Dup()
		if err != nil {
			return nil, err
		}
		held <- out
		if _, err := out.WriteNow([]byte("what it said")); err != nil {
			return nil, err
		}
		pidfd, err := endedPidfd()
		n.runtime.end(Exit{ID: e.ID, Code: 5})
		return &Process{PID: 1 << 30, Pidfd: pidfd}, err
	}
	c := n.exec(id, false, nil, "leaves something behind")
	c.sees(0, "what it said")
	c.finished(5)
	(<-held).Close()
}

func TestACommandEndsWithItsContainer(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	launched := make(chan string, 1)
	n.runtime.launch = func(e *ExecStart) (*Process, error) {
		pidfd, err := endedPidfd()
		launched <- e.ID
		return &Process{PID: 1 << 30, Pidfd: pidfd}, err
	}
	c := n.exec(id, false, nil, "goes on")
	execID := <-launched
	n.runtime.end(Exit{ID: execID, Code: 137, Signal: 9}) // by the kernel, as its PID namespace's first process ended
	n.runtime.end(Exit{ID: id, Code: 0})
	c.finished(137)
	n.noExecs()
}
