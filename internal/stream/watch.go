package stream

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"

	"fermata/internal/linux"
)

// watch notices that a client has closed its connection, whatever of its words has not been read yet: a command that does not read its stdin would hide
// it from whoever waits for the next word.
type watch struct {
	poller *linux.Poller

	mu       sync.Mutex
	last     uint64
	sessions map[uint64]*session
	tokens   map[*session]uint64
}

func newWatch() (*watch, error) {
	p, err := linux.NewPoller()
	if err != nil {
		return nil, err
	}
	return &watch{poller: p, sessions: map[uint64]*session{}, tokens: map[*session]uint64{}}, nil
}

// run tells sessions that their clients have left, until ctx ends.
func (w *watch) run(ctx context.Context) {
	var events []linux.Event
	for ctx.Err() == nil {
		var err error
		if events, err = w.poller.Wait(events[:0]); err != nil {
			return // EBADF and the like: cannot happen
		}
		for _, e := range events {
			w.mu.Lock()
			c := w.sessions[e.Token]
			w.mu.Unlock()
			if c != nil {
				c.leave()
			}
		}
	}
}

func (w *watch) add(c *session) error {
	w.mu.Lock()
	w.last++
	token := w.last
	w.sessions[token], w.tokens[c] = c, token
	w.mu.Unlock()
	return w.poller.Add(c.dup, linux.PollPeerGone|linux.PollOnce, token)
}

// remove ends the watch.
func (w *watch) remove(c *session) {
	w.poller.Remove(c.dup)
	w.mu.Lock()
	delete(w.sessions, w.tokens[c])
	delete(w.tokens, c)
	w.mu.Unlock()
	c.dup.Close()
}

// Hijack implements http.Hijacker: the connection becomes the session's. When the client leaves, or the server ends, it is closed, so that nobody waits
// for it to be read or written.
func (c *session) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(c.writer).Hijack()
	if err != nil {
		return nil, nil, err
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		conn.Close()
		return nil, nil, fmt.Errorf("take over connection: a %T has no descriptor", conn)
	}
	dup, err := linux.DupConn(socket)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.dup = conn, dup
	c.end = context.AfterFunc(c.ctx, func() { conn.Close() })
	if err := c.server.watch.add(c); err != nil {
		return nil, nil, err // closed with the session
	}
	return conn, rw, nil
}
