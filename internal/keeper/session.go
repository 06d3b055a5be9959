package keeper

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// maxQueue is how many messages may wait for a daemon to read them. Over it the connection is closed: the daemon hangs, and what it
// missed is told to the one that connects next.
const maxQueue = 1 << 16

// session is one connection.
type session struct {
	server *Server
	conn   *wire.Conn

	mu     sync.Mutex
	queue  []wire.Message // their descriptors are the queue's own
	closed bool
	// sending says that something was taken from the queue and is not sent yet.
	sending bool
	wake    chan struct{} // of capacity 1: something is in the queue, or it is closed

	subscribed bool // guarded by Server.mu
}

// open starts a session; nil if the keeper ends.
func (s *Server) open(packets *linux.Packets) *session {
	c := &session{server: s, conn: wire.NewConn(packets), wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		c.conn.Close()
		return nil
	}
	s.sessions[c] = true
	s.work.Go(c.read)
	s.work.Go(c.write)
	return c
}

// close ends the session once what is queued has been sent, if the other end reads it.
func (c *session) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
}

func (c *session) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// send queues a message and takes its descriptors.
func (c *session) send(m wire.Message) {
	c.mu.Lock()
	full := len(c.queue) >= maxQueue
	if c.closed || full {
		c.mu.Unlock()
		linux.CloseAll(m.FDs...)
		if full {
			c.conn.Close() // ends read and write
		}
		return
	}
	c.queue = append(c.queue, m)
	c.mu.Unlock()
	c.signal()
}

// write sends what is queued.
func (c *session) write() {
	defer c.conn.Close()
	var unsent []wire.Message
	for range c.wake {
		c.mu.Lock()
		queue, closed := c.queue, c.closed
		c.queue, c.sending = nil, true
		c.mu.Unlock()
		for i, m := range queue {
			err := c.conn.Send(m)
			linux.CloseAll(m.FDs...)
			if err != nil { // the other end is gone
				unsent = queue[i:]
				closed = true
				break
			}
		}
		if closed {
			break
		}
		c.mu.Lock()
		c.sending = false
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.closed = true
	unsent = append(unsent, c.queue...)
	c.queue = nil
	c.mu.Unlock()
	for _, m := range unsent {
		linux.CloseAll(m.FDs...)
		if m.Type == wire.TypeExited { // to a daemon that had just died
			c.server.unheard(m.Body)
		}
	}
}

// read answers requests until the other end closes.
func (c *session) read() {
	defer func() {
		c.server.mu.Lock()
		delete(c.server.sessions, c)
		c.server.mu.Unlock()
		c.close()
	}()
	for {
		err := c.conn.Wait()
		if err == nil {
			err = c.next()
		}
		if err != nil {
			if err != io.EOF && !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
				c.server.o.warn(err)
			}
			return
		}
	}
}

// next receives a message and does what it asks, or has it done.
func (c *session) next() error {
	busy := c.server.busy
	busy.enter()
	defer busy.leave()
	m, err := c.conn.Receive()
	if err != nil {
		return err
	}
	do := func(how func(wire.Message)) {
		busy.more()
		c.server.work.Go(func() {
			defer busy.leave()
			how(m)
		})
	}
	switch m.Type {
	case wire.TypeLaunch:
		do(c.launch)
	case wire.TypeReopenLog, wire.TypeRestore, wire.TypeForget: // wait for disks
		do(c.answer)
	case wire.TypeUpgrade: // waits for all others
		c.server.work.Go(func() { c.upgrade(m) })
	default:
		c.answer(m)
	}
	return nil
}

// answer does what a request asks and replies.
func (c *session) answer(m wire.Message) {
	defer linux.CloseAll(m.FDs...)
	r, err := wire.DecodeRequest(m.Body)
	if err != nil {
		c.reply(m.Request, &wire.Reply{Err: errs.As(errs.InvalidArgument, err)})
		return
	}
	if m.Type == wire.TypeHello {
		c.reply(m.Request, &wire.Reply{Executable: executable()})
		if r.Subscribe {
			c.server.subscribe(c)
		}
		return
	}
	if m.Type == wire.TypeShutdown {
		err := c.server.refuseWork()
		c.reply(m.Request, &wire.Reply{Err: err})
		if err == nil { // after the reply is queued: what is queued is still sent
			c.server.o.warn(c.server.listener.Close())
		}
		return
	}
	reply, fds, err := c.server.do(m.Type, r, m.FDs)
	if err != nil {
		reply = &wire.Reply{Err: err}
	}
	c.reply(m.Request, reply, fds...)
}

// reply queues a reply and takes its descriptors.
func (c *session) reply(request uint64, r *wire.Reply, fds ...*linux.FD) {
	if r == nil {
		r = &wire.Reply{}
	}
	c.send(wire.Message{Type: wire.TypeReply, Request: request, Body: r.Encode(), FDs: fds})
}

// do performs a request other than Hello, Launch and Shutdown. What it returns as descriptors is the caller's.
func (s *Server) do(t wire.Type, r *wire.Request, given []*linux.FD) (*wire.Reply, []*linux.FD, error) {
	switch t {
	case wire.TypeProcesses:
		return s.page(r.After), nil, nil
	case wire.TypeForget:
		return nil, nil, s.forget(r.ID)
	}
	ops := map[wire.Type]struct {
		name string
		do   func(p *process) (*wire.Reply, []*linux.FD, error)
	}{
		wire.TypeSignal:     {"signal", func(p *process) (*wire.Reply, []*linux.FD, error) { return nil, nil, p.signal(r.Signal) }},
		wire.TypePidfd:      {"hand out pidfd of", func(p *process) (*wire.Reply, []*linux.FD, error) { return p.hand(&p.pidfd, "pidfd") }},
		wire.TypeConsole:    {"hand out console of", func(p *process) (*wire.Reply, []*linux.FD, error) { return p.hand(&p.console, "console") }},
		wire.TypeStdin:      {"hand out stdin of", func(p *process) (*wire.Reply, []*linux.FD, error) { return p.hand(&p.stdin, "stdin") }},
		wire.TypeCloseStdin: {"close stdin of", func(p *process) (*wire.Reply, []*linux.FD, error) { return nil, nil, p.closeStdin() }},
		wire.TypeNamespaces: {"hand out namespaces of", func(p *process) (*wire.Reply, []*linux.FD, error) { return p.handNamespaces() }},
		wire.TypeFollow:     {"follow", func(p *process) (*wire.Reply, []*linux.FD, error) { return nil, nil, p.copyTo(r.Streams, given) }},
		wire.TypeRestore:    {"restore the console of", func(p *process) (*wire.Reply, []*linux.FD, error) { return nil, nil, p.restore(given) }},
		wire.TypeReopenLog:  {"reopen log of", func(p *process) (*wire.Reply, []*linux.FD, error) { return nil, nil, p.reopen(given, r.Base) }},
	}
	op, ok := ops[t]
	if !ok {
		return nil, nil, errs.New(errs.Unimplemented, "answer a message of type %d: this keeper does not know it", t)
	}
	p, err := s.find(op.name, r.ID)
	if err != nil {
		return nil, nil, err
	}
	return op.do(p)
}

// subscribe tells a session of all exits, those that are not forgotten first.
func (s *Server) subscribe(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missed []*wire.Exit
	for _, p := range s.processes {
		if p.told != nil {
			missed = append(missed, p.told)
		}
	}
	slices.SortFunc(missed, func(a, b *wire.Exit) int { return a.Finished.Compare(b.Finished) })
	for _, e := range missed {
		c.exited(e)
	}
	c.subscribed = true
}

func (c *session) exited(e *wire.Exit) {
	c.send(wire.Message{Type: wire.TypeExited, Body: e.Encode()})
}

// tell makes an exit known and reports whether anybody was there to hear of it.
func (s *Server) tell(p *process, e *wire.Exit) (heard bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.told = e
	for c := range s.sessions {
		if c.subscribed {
			c.exited(e)
			heard = true
		}
	}
	return heard
}
