package pod

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Stdio is a running container's standard streams, as the supervisor holds them.
type Stdio interface {
	// Follow copies what the container writes from now on to pipes (nil: not wanted), until it ends. A pipe that is full when there is something to
	// write is given up: nobody waits for its reader.
	Follow(ctx context.Context, id string, stdout, stderr *linux.FD) error
	// Console duplicates the master side of its terminal.
	Console(ctx context.Context, id string) (*linux.FD, error)
	// Stdin duplicates the writing end of its stdin; the container reads an end of file when all are closed and CloseStdin was called.
	Stdin(ctx context.Context, id string) (*linux.FD, error)
	CloseStdin(ctx context.Context, id string) error
}

// attachRoom is how much output may wait for an attached client, in bytes: the largest pipe an ordinary system allows.
const attachRoom = 1 << 20

// lagging is how long an attachment whose output has ended waits for its container's end, before that is taken for having been given up.
const lagging = 5 * time.Second

// Attach gives a client a running container's streams until the container ends or the client leaves (ctx ends); the container goes on. The client gets
// what is written from now on. One that falls more than [attachRoom] behind is detached with ResourceExhausted: its container waits for nobody.
// The end of a client's input, or its leaving, is the end of the container's if that said so (stdin_once).
func (m *Manager) Attach(ctx context.Context, id string, s *Streams) error {
	c, r, err := m.running(id)
	if err != nil {
		return err
	}
	config := r.Config.M
	if s.TTY != config.GetTty() {
		return errs.New(errs.InvalidArgument, "attach to container %s: tty is %v, and the container's is %v", c.id, s.TTY, config.GetTty())
	}
	a := &attachment{Streams: s, m: m, id: c.id, once: config.GetStdinOnce(), closed: make(chan struct{}), left: make(chan error, 3)}
	defer a.close()
	if s.Stdin != nil && config.GetStdin() {
		if err := a.openInput(ctx); err != nil {
			return fmt.Errorf("attach to container %s: %w", c.id, err)
		}
	}
	if s.TTY && a.console == nil {
		if a.console, err = m.Stdio.Console(ctx, c.id); err != nil {
			return fmt.Errorf("attach to container %s: %w", c.id, err)
		}
	}
	if err := a.openOutput(ctx); err != nil {
		return fmt.Errorf("attach to container %s: %w", c.id, err)
	}
	return a.run(ctx, c)
}

// attachment is one client of a container's streams.
type attachment struct {
	*Streams
	m    *Manager
	id   string
	once bool // stdin_once

	stdin   *os.File
	console *linux.FD
	outputs []*output
	closed  chan struct{}
	left    chan error
	resizer sync.WaitGroup
}

// openInput takes the way to the container's stdin.
func (a *attachment) openInput(ctx context.Context) error {
	if !a.TTY {
		fd, err := a.m.Stdio.Stdin(ctx, a.id)
		if err != nil {
			return err
		}
		a.stdin = fd.File()
		return nil
	}
	master, err := a.m.Stdio.Console(ctx, a.id)
	if err != nil {
		return err
	}
	a.console = master
	in, err := master.Dup()
	if err != nil {
		return err
	}
	a.stdin = in.File()
	return nil
}

// openOutput has the supervisor copy the container's output.
func (a *attachment) openOutput(ctx context.Context) error {
	var ends [2]*linux.FD
	defer func() { linux.CloseAll(ends[:]...) }()
	for i, to := range []io.Writer{a.Stdout, a.Stderr} {
		if to == nil {
			continue
		}
		ours, theirs, err := linux.OutputPipe()
		if err != nil {
			return err
		}
		ends[i] = theirs
		a.outputs = append(a.outputs, &output{from: ours, to: to, done: make(chan struct{})})
		if err := theirs.SetNonblock(true); err != nil {
			return err
		}
		theirs.SetPipeSize(attachRoom) // a smaller one works too
	}
	if len(a.outputs) == 0 {
		return nil
	}
	return a.m.Stdio.Follow(ctx, a.id, ends[0], ends[1])
}

// run copies until the container's output or the client ends.
func (a *attachment) run(ctx context.Context, c *Container) error {
	for _, o := range a.outputs {
		go o.copy(func(err error) { a.left <- err })
	}
	if a.stdin != nil {
		go a.input()
	} else if a.Stdin != nil {
		go io.Copy(io.Discard, a.Stdin) // it takes none; unread it would block the client's other streams
	}
	if a.console != nil {
		a.resizer.Go(func() { resize(a.console, a.Resize, a.closed) })
	}
	gone := c.running()
	if gone == nil {
		gone = make(chan struct{})
		close(gone)
	}
	// With input alone it lasts until the container ends. One output that ends is the end of all: it was the container's, or the client lacks
	// what came there.
	one := make(chan struct{}, len(a.outputs))
	for _, o := range a.outputs {
		go func() { <-o.done; one <- struct{}{} }()
	}
	select {
	case <-one:
		if err := a.verdict(ctx, gone); err != nil {
			return err
		}
	case <-gone:
	case <-ctx.Done():
	}
	for _, o := range a.outputs {
		o.end()
		select {
		case <-o.done:
		case <-ctx.Done():
		}
	}
	return nil
}

// verdict says why an output ended: with the container or the client, or because it was given up.
func (a *attachment) verdict(ctx context.Context, gone <-chan struct{}) error {
	t := time.NewTimer(lagging)
	defer t.Stop()
	select {
	case <-a.left:
		return nil
	case <-gone:
		return nil
	case <-ctx.Done():
		return nil
	case <-t.C:
		return errs.New(errs.ResourceExhausted, "attach to container %s: output came faster than the client took it (or the keeper was replaced); attach again", a.id)
	}
}

// input gives the client's input to the container.
func (a *attachment) input() {
	_, err := io.Copy(a.stdin, a.Stdin)
	if err == nil {
		a.endInput()
		return
	}
	io.Copy(io.Discard, a.Stdin)
}

// endInput closes the way to the container's stdin, and with stdin_once the container's end of it. A terminal has no end of file.
func (a *attachment) endInput() {
	a.stdin.Close()
	if !a.once || a.TTY {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), reapLimit)
	defer cancel()
	if err := a.m.Stdio.CloseStdin(ctx, a.id); err != nil && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Unavailable) {
		a.m.Log.Error("close the stdin of a container after its one client", "container", a.id, "error", err)
	}
}

// close ends all copying that does not wait for the client.
func (a *attachment) close() {
	if a.stdin != nil {
		a.endInput()
	}
	for _, o := range a.outputs {
		o.from.Close()
	}
	close(a.closed)
	a.resizer.Wait()
	a.console.Close()
}
