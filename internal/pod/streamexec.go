package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// drainMost is what is still read of an output after its command has ended, in bytes: what a pipe can hold. More is another process's, which has
// it open and may write for ever.
const drainMost = 1 << 20

// Streams are a client's ends of a command's or container's standard streams.
type Streams struct {
	// Stdin ends with the client's input; nil for none.
	Stdin io.Reader
	// Stdout and Stderr take the output; nil where it is not wanted. With a terminal there is no Stderr.
	Stdout, Stderr io.Writer
	TTY            bool
	// Size is the terminal's when a command starts; zero where it is not known yet.
	Size TerminalSize
	// Resize tells of the terminal's size; nil for never.
	Resize <-chan TerminalSize
}

// TerminalSize is in characters.
type TerminalSize struct{ Width, Height uint16 }

// CanStream says whether a container is one to exec in or attach to: it runs. It returns the container's whole ID.
func (m *Manager) CanStream(id string) (string, error) {
	c, _, err := m.running(id)
	if err != nil {
		return "", err
	}
	return c.id, nil
}

// Takes says what streams a running container has.
func (m *Manager) Takes(id string) (tty, stdin bool, err error) {
	_, r, err := m.running(id)
	if err != nil {
		return false, false, err
	}
	return r.Config.M.GetTty(), r.Config.M.GetStdin(), nil
}

// running finds a container that runs.
func (m *Manager) running(id string) (*Container, *ContainerRecord, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return nil, nil, err
	}
	r := c.snapshot()
	if r.State != StateRun {
		return nil, nil, errs.New(errs.FailedPrecondition, "find container %s: it is %s, not running", c.id, r.State)
	}
	return c, &r, nil
}

// Exec runs a command in a running container with a client's streams, and returns its exit code once all its output has been given to the client.
// When ctx ends, or output cannot be delivered any more, the client has left: the command is killed with all that it started.
func (m *Manager) Exec(ctx context.Context, id string, cmd []string, s *Streams) (int, error) {
	if err := spec.CheckCommand(cmd); err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	c, r, err := m.running(id)
	if err != nil {
		return 0, err
	}
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	x := &execStreams{Streams: s, leave: leave, closed: make(chan struct{})}
	defer x.close()
	call := execCall{c: c, r: r, id: c.id + "/" + newID()[:16], cmd: cmd, tty: s.TTY, size: s.Size, started: x.started}
	if !s.TTY {
		if err := x.open(&call); err != nil {
			return 0, err
		}
	}
	exit, err := m.execute(ctx, call)
	if err != nil {
		return 0, fmt.Errorf("exec %q in container %s: %w", strings.Join(cmd, " "), c.id, err)
	}
	x.drain(ctx)
	return exit.Code, nil
}

// execStreams are the streams between a client and one command.
type execStreams struct {
	*Streams
	leave func(error) // ends the command: the client is gone

	theirs  []*linux.FD // the command's ends, until it has them
	stdin   *os.File
	outputs []*output
	console *linux.FD
	closed  chan struct{}
	resizer sync.WaitGroup
}

// open makes pipes for the streams that the client has.
func (x *execStreams) open(call *execCall) (err error) {
	if x.Stdin != nil {
		if call.stdin, x.stdin, err = linux.InputPipe(); err != nil {
			return err
		}
		x.theirs = append(x.theirs, call.stdin)
	}
	for _, o := range []struct {
		to     io.Writer
		theirs **linux.FD
	}{{x.Stdout, &call.stdout}, {x.Stderr, &call.stderr}} {
		if o.to == nil {
			continue
		}
		ours, theirs, err := linux.OutputPipe()
		if err != nil {
			return err
		}
		*o.theirs = theirs
		x.theirs = append(x.theirs, theirs)
		x.outputs = append(x.outputs, &output{from: ours, to: o.to, done: make(chan struct{})})
	}
	return nil
}

// started begins copying: the command (nil if it could not be launched) has its ends.
func (x *execStreams) started(proc *Process) {
	linux.CloseAll(x.theirs...)
	if proc == nil {
		for _, o := range x.outputs {
			close(o.done) // nobody will
		}
		return
	}
	if proc.Console != nil {
		if err := x.openConsole(proc.Console); err != nil {
			x.leave(err)
			return
		}
	}
	for _, o := range x.outputs {
		go o.copy(x.leave)
	}
	if x.Stdin != nil {
		go x.input()
	}
}

// openConsole takes the terminal's other side.
func (x *execStreams) openConsole(master *linux.FD) error {
	x.console = master
	in, out, err := terminalFiles(master)
	if err != nil {
		return err
	}
	x.stdin = in
	to := x.Stdout
	if to == nil {
		to = io.Discard
	}
	x.outputs = append(x.outputs, &output{from: out, to: to, done: make(chan struct{})})
	x.resizer.Go(func() { resize(master, x.Resize, x.closed) })
	return nil
}

// terminalFiles returns two files of a pseudo-terminal's master, one to write and one to read, so that closing one does not end the other's use.
func terminalFiles(master *linux.FD) (in, out *os.File, err error) {
	if err := master.SetNonblock(true); err != nil {
		return nil, nil, err
	}
	a, err := master.Dup()
	if err != nil {
		return nil, nil, err
	}
	b, err := master.Dup()
	if err != nil {
		a.Close()
		return nil, nil, err
	}
	return a.File(), b.File(), nil
}

// resize gives a terminal the sizes that come, until there are no more or closed is.
func resize(master *linux.FD, sizes <-chan TerminalSize, closed <-chan struct{}) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			if err := master.SetTerminalSize(s.Height, s.Width); err != nil {
				return // hung up
			}
		case <-closed:
			return
		}
	}
}

// input copies a client's input. What comes when nobody reads it any more is dropped: left unread it would block the client's other streams.
func (x *execStreams) input() {
	from := &lastByte{r: x.Stdin, last: '\n'}
	_, err := io.Copy(x.stdin, from)
	switch {
	case err != nil:
		io.Copy(io.Discard, x.Stdin)
	case !x.TTY:
		x.stdin.Close() // the command reads its end of file
	default:
		_, _ = x.stdin.Write(from.eof()) // refused when the command has ended
	}
}

// lastByte reads on, and remembers what came last.
type lastByte struct {
	r    io.Reader
	last byte
}

// Read implements io.Reader.
func (l *lastByte) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.last = p[n-1]
	}
	return n, err
}

// eof is what a person types at a terminal for "no more", as script(1), whose input ends, does: in the middle of a line the first ^D only
// sends off what there is of it.
func (l *lastByte) eof() []byte {
	const ctrlD = "\x04"
	if l.last == '\n' {
		return []byte(ctrlD)
	}
	return []byte(ctrlD + ctrlD)
}

// drain waits until the client has what the command wrote.
func (x *execStreams) drain(ctx context.Context) {
	for _, o := range x.outputs {
		o.end()
	}
	for _, o := range x.outputs {
		select {
		case <-o.done:
		case <-ctx.Done():
			return
		}
	}
}

// close ends all copying that does not wait for the client: that ends with its connection.
func (x *execStreams) close() {
	linux.CloseAll(x.theirs...)
	if x.stdin != nil {
		x.stdin.Close()
	}
	for _, o := range x.outputs {
		o.from.Close()
	}
	close(x.closed)
	x.resizer.Wait()
	x.console.Close()
}

// output is one stream on its way from a command to the client.
type output struct {
	from  *os.File
	to    io.Writer
	ended atomic.Bool // the command has
	done  chan struct{}
}

// copy delivers until every writer is gone, or, once the command has ended, nothing has come for [execDrain] or too much. left is told that the
// client does not take it.
func (o *output) copy(left func(error)) {
	defer close(o.done)
	buf := make([]byte, 32<<10)
	again, hungUp, after := true, false, 0
	for {
		n, err := o.from.Read(buf)
		if n > 0 {
			if _, err := o.to.Write(buf[:n]); err != nil {
				left(errs.New(errs.Canceled, "the client takes no output any more: %w", err))
				return
			}
		}
		if n > 0 && o.ended.Load() {
			if after += n; after > drainMost {
				return
			}
			o.from.SetReadDeadline(time.Now().Add(execDrain))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && again { // it may have passed while the client was slow, with something still there
			again = false
			o.from.SetReadDeadline(time.Now().Add(execDrain / 10))
			continue
		}
		if errors.Is(err, syscall.EIO) && !hungUp { // a terminal's hang-up is believed the second time, see linux.FD.ReadNow
			hungUp = true
			continue
		}
		if err != nil {
			return // the end, closed, or the deadline
		}
	}
}

// end says that the command has ended.
func (o *output) end() {
	o.ended.Store(true)
	o.from.SetReadDeadline(time.Now().Add(execDrain))
}
