// Package client is the daemon's way to the keeper: one connection, any number of requests at once, and the exits.
//
// A request's context bounds only the waiting: what the keeper was asked to do, it does. A launch that was given up on this way is found
// by Processes, and can be signalled at once. When the connection ends ([Client.Done]) every waiting and later request is
// errs.Unavailable; dial again, nothing is lost: exits that were not forgotten are told again.
//
// What belongs elsewhere: the messages (package wire), when to dial again (the daemon).
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// Options say which keeper, and who hears of exits.
type Options struct {
	// Socket is the keeper's path.
	Socket string
	// OnExit is called for each exit, in order, one at a time, from a goroutine of the client's; exits not yet forgotten are told again
	// to every new Client. It may call the client. nil does not subscribe. It may be called before the Launch that the exit belongs to
	// has returned to its caller.
	OnExit func(wire.Exit)
}

// Client is a connection to the keeper. It is safe for concurrent use.
type Client struct {
	conn   *wire.Conn
	onExit func(wire.Exit)
	work   sync.WaitGroup
	done   chan struct{} // closed by receive at its end

	executable string

	mu      sync.Mutex
	last    uint64                       // request number
	waiting map[uint64]chan wire.Message // of capacity 1; closed when no answer will come
	cause   error                        // why the connection ended; nil while it lasts
	exits   []wire.Exit                  // to be told
	news    chan struct{}                // of capacity 1: exits has some
}

// Dial connects to the keeper and, with OnExit, subscribes. No keeper there is errs.Unavailable.
func Dial(ctx context.Context, o Options) (*Client, error) {
	packets, err := linux.DialPackets(o.Socket)
	if err != nil {
		return nil, errs.As(errs.Unavailable, err)
	}
	c := &Client{
		conn: wire.NewConn(packets), onExit: o.OnExit, done: make(chan struct{}), waiting: map[uint64]chan wire.Message{}, news: make(chan struct{}, 1),
	}
	c.work.Go(c.receive)
	if o.OnExit != nil {
		c.work.Go(c.tell)
	}
	hello := &wire.Request{Subscribe: o.OnExit != nil}
	r, fds, err := c.request(ctx, wire.TypeHello, hello)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("greet keeper at %s: %w", o.Socket, err)
	}
	linux.CloseAll(fds...)
	c.executable = r.Executable
	return c, nil
}

// PID is the keeper's process.
func (c *Client) PID() (int, error) { return c.conn.PeerPID() }

// Done is closed when the connection has ended, whoever ended it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and waits until no OnExit runs; it must not be called from one.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.work.Wait()
	return err
}

// receive hands replies to who waits for them and exits to tell.
func (c *Client) receive() {
	defer close(c.done)
	for {
		m, err := c.conn.Receive()
		if err != nil {
			c.end(err)
			return
		}
		switch m.Type {
		case wire.TypeReply:
			c.mu.Lock()
			answer, ok := c.waiting[m.Request]
			delete(c.waiting, m.Request)
			c.mu.Unlock()
			if ok {
				answer <- m
			} else {
				linux.CloseAll(m.FDs...) // whoever asked gave up
			}
		case wire.TypeExited:
			linux.CloseAll(m.FDs...)
			e, err := wire.DecodeExit(m.Body)
			if err != nil {
				c.end(err)
				return
			}
			c.mu.Lock()
			c.exits = append(c.exits, *e)
			c.mu.Unlock()
			select {
			case c.news <- struct{}{}:
			default:
			}
		default: // a newer keeper's news
			linux.CloseAll(m.FDs...)
		}
	}
}

// end fails all requests, present and future.
func (c *Client) end(cause error) {
	if cause == io.EOF {
		cause = errors.New("the keeper closed the connection")
	} else if errors.Is(cause, os.ErrClosed) {
		cause = errors.New("the connection was closed")
	}
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cause = cause
	for n, answer := range c.waiting {
		close(answer)
		delete(c.waiting, n)
	}
	close(c.news)
}

// tell calls OnExit. What was received before the connection ended is still told.
func (c *Client) tell() {
	for range c.news {
		c.mu.Lock()
		exits := c.exits
		c.exits = nil
		c.mu.Unlock()
		for _, e := range exits {
			c.onExit(e)
		}
	}
}

// request sends a request and waits for its reply, whose descriptors are the caller's.
func (c *Client) request(ctx context.Context, t wire.Type, r *wire.Request, fds ...*linux.FD) (*wire.Reply, []*linux.FD, error) {
	return c.exchange(ctx, wire.Message{Type: t, Body: r.Encode(), FDs: fds})
}

func (c *Client) exchange(ctx context.Context, m wire.Message) (*wire.Reply, []*linux.FD, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, nil, fmt.Errorf("ask keeper: %w", err)
	}
	answer := make(chan wire.Message, 1)
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return nil, nil, &notSent{c.gone()}
	}
	c.last++
	m.Request = c.last
	c.waiting[m.Request] = answer
	c.mu.Unlock()
	if err := c.conn.Send(m); err != nil {
		if c.forget(m.Request, answer); errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrClosed) {
			err = &notSent{errs.As(errs.Unavailable, err)}
		}
		return nil, nil, fmt.Errorf("ask keeper: %w", err)
	}
	select {
	case m, ok := <-answer:
		if !ok {
			return nil, nil, c.gone()
		}
		r, err := wire.DecodeReply(m.Body)
		if err == nil {
			err = r.Err
		}
		if err != nil {
			linux.CloseAll(m.FDs...)
			return nil, nil, err
		}
		return r, m.FDs, nil
	case <-ctx.Done():
		c.forget(m.Request, answer)
		return nil, nil, fmt.Errorf("wait for keeper: %w", context.Cause(ctx))
	}
}

// notSent is the end of a connection that was found before a request was sent.
type notSent struct{ error }

// Unwrap returns the cause.
func (e *notSent) Unwrap() error { return e.error }

// NotSent reports whether a request's error says that no keeper has seen the request.
func NotSent(err error) bool {
	var e *notSent
	return errors.As(err, &e)
}

// forget gives up waiting; a reply that has come meanwhile, or comes later, is closed.
func (c *Client) forget(request uint64, answer chan wire.Message) {
	c.mu.Lock()
	_, waiting := c.waiting[request]
	delete(c.waiting, request)
	c.mu.Unlock()
	if waiting {
		return
	}
	if m, ok := <-answer; ok { // receive has taken the channel and is about to answer, or end closed it
		linux.CloseAll(m.FDs...)
	}
}

func (c *Client) gone() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errs.New(errs.Unavailable, "ask keeper: %w", c.cause)
}

// Launch starts a process and returns when its program is through. A failure of the program is a [*wire.LaunchError]; an ID in use
// errs.AlreadyExists; no descriptors left errs.ResourceExhausted. The descriptors of l stay the caller's and may be closed after.
func (c *Client) Launch(ctx context.Context, l *wire.Launch) (*wire.Launched, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	fds := make([]*linux.FD, len(l.FDs))
	for i, p := range l.FDs {
		fds[i] = p.FD
	}
	r, fds, err := c.exchange(ctx, wire.Message{Type: wire.TypeLaunch, Body: l.Encode(), FDs: fds})
	if err != nil {
		return nil, err
	}
	if r.Launched.Pidfd, err = one(fds); err != nil {
		return nil, fmt.Errorf("launch %s: %w", l.ID, err)
	}
	return &r.Launched, nil
}

// one returns the only descriptor of a reply.
func one(fds []*linux.FD) (*linux.FD, error) {
	if len(fds) != 1 {
		linux.CloseAll(fds...)
		return nil, fmt.Errorf("the keeper sent %d descriptors, want 1", len(fds))
	}
	return fds[0], nil
}

// plain makes a request that is answered by success or failure alone.
func (c *Client) plain(ctx context.Context, t wire.Type, r *wire.Request, fds ...*linux.FD) error {
	_, got, err := c.request(ctx, t, r, fds...)
	linux.CloseAll(got...)
	return err
}

// descriptor makes a request that is answered by one descriptor.
func (c *Client) descriptor(ctx context.Context, t wire.Type, id string) (*linux.FD, error) {
	_, fds, err := c.request(ctx, t, &wire.Request{ID: id})
	if err != nil {
		return nil, err
	}
	return one(fds)
}

// Signal sends a signal to a process, also to one that is still being launched. One that is unknown or has ended is errs.NotFound.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return c.plain(ctx, wire.TypeSignal, &wire.Request{ID: id, Signal: sig})
}

// Processes lists what was launched and is not forgotten, in the order of IDs.
func (c *Client) Processes(ctx context.Context) ([]wire.Process, error) {
	var all []wire.Process
	for after := ""; ; after = all[len(all)-1].ID {
		r, fds, err := c.request(ctx, wire.TypeProcesses, &wire.Request{After: after})
		linux.CloseAll(fds...)
		if err != nil {
			return nil, err
		}
		all = append(all, r.Processes...)
		if !r.More || len(r.Processes) == 0 {
			return all, nil
		}
	}
}

// Pidfd returns a handle of a running process.
func (c *Client) Pidfd(ctx context.Context, id string) (*linux.FD, error) {
	return c.descriptor(ctx, wire.TypePidfd, id)
}

// Namespaces returns a pause's namespaces by name ("net", "ipc", "uts", "pid", "mnt"), as they were right after its launch: some may
// be the host's. They can be had until it is forgotten, also after its death.
func (c *Client) Namespaces(ctx context.Context, id string) (map[string]*linux.FD, error) {
	r, fds, err := c.request(ctx, wire.TypeNamespaces, &wire.Request{ID: id})
	if err != nil {
		return nil, err
	}
	if len(r.Names) != len(fds) {
		linux.CloseAll(fds...)
		return nil, fmt.Errorf("ask keeper for namespaces of %s: %d names for %d descriptors", id, len(r.Names), len(fds))
	}
	namespaces := make(map[string]*linux.FD, len(fds))
	for i, name := range r.Names {
		namespaces[name] = fds[i]
	}
	return namespaces, nil
}

// ReopenLog has what a process writes from now on go to the file base in dir, made if missing. What was read before is in the old file. A process
// that has no log, or has ended with its log complete, is errs.FailedPrecondition.
func (c *Client) ReopenLog(ctx context.Context, id string, dir *linux.FD, base string) error {
	return c.plain(ctx, wire.TypeReopenLog, &wire.Request{ID: id, Base: base}, dir)
}

// Console returns a duplicate of a process's pty master, which is non-blocking and read by the keeper too. A process without one is
// errs.FailedPrecondition.
func (c *Client) Console(ctx context.Context, id string) (*linux.FD, error) {
	return c.descriptor(ctx, wire.TypeConsole, id)
}

// Restore gives the master of a process's terminal back to a keeper that follows one that was killed. A keeper that has it keeps its own.
func (c *Client) Restore(ctx context.Context, id string, console *linux.FD) error {
	return c.plain(ctx, wire.TypeRestore, &wire.Request{ID: id}, console)
}

// Executable is the path of the keeper's binary, as it was when this client connected; "" if the keeper is too old to say.
func (c *Client) Executable() string { return c.executable }

// Upgrade has the keeper execute the binary at a path in its place. Nothing that it holds is let go of, this connection included. It returns when the new
// one answers; errs.Unavailable says that something under way did not end, and that it may be tried again.
func (c *Client) Upgrade(ctx context.Context, path string) error {
	return c.plain(ctx, wire.TypeUpgrade, &wire.Request{Path: path})
}

// Stdin returns a duplicate of the writing end of a process's stdin, which is non-blocking. The process reads an end of file when this one is
// closed and CloseStdin was called. A process without a stdin FIFO, or that has ended, is errs.FailedPrecondition.
func (c *Client) Stdin(ctx context.Context, id string) (*linux.FD, error) {
	return c.descriptor(ctx, wire.TypeStdin, id)
}

// CloseStdin closes the keeper's writing end of a process's stdin; twice is fine.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	return c.plain(ctx, wire.TypeCloseStdin, &wire.Request{ID: id})
}

// Follow has the keeper copy what a process writes from now on to the writing ends of pipes (nil: that stream is not wanted), which must be
// non-blocking and stay the caller's. The keeper closes its duplicates when the process has ended, when the reader is gone, or when a pipe is too full
// for what is to be written: it waits for nobody. What the process wrote before is not in them. A process whose output the keeper does not read is
// errs.FailedPrecondition.
func (c *Client) Follow(ctx context.Context, id string, stdout, stderr *linux.FD) error {
	r := &wire.Request{ID: id}
	var fds []*linux.FD
	if stdout != nil {
		r.Streams, fds = append(r.Streams, "stdout"), append(fds, stdout)
	}
	if stderr != nil {
		r.Streams, fds = append(r.Streams, "stderr"), append(fds, stderr)
	}
	return c.plain(ctx, wire.TypeFollow, r, fds...)
}

// Forget drops an ended process: its exit is known and kept elsewhere. Its record, FIFOs and namespaces go. One that runs is
// errs.FailedPrecondition, an unknown one errs.NotFound.
func (c *Client) Forget(ctx context.Context, id string) error {
	return c.plain(ctx, wire.TypeForget, &wire.Request{ID: id})
}

// Shutdown ends a keeper that holds nothing; otherwise it is errs.FailedPrecondition. For uninstalling and tests.
func (c *Client) Shutdown(ctx context.Context) error {
	return c.plain(ctx, wire.TypeShutdown, &wire.Request{})
}
