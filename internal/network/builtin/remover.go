package builtin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"fermata/internal/network/rtnl"
)

// remover deletes links. The kernel keeps whoever deletes one waiting for 15 ms and more after the link is gone, and as long for twenty as
// for one. So a few workers take what has gathered, and callers wait only until theirs is gone (see rtnl.Conn.Delete).
type remover struct {
	// dial makes a connection for deleting; exists asks whether there is a link, on another one.
	dial   func() (*rtnl.Conn, error)
	exists func(name string) bool
	wg     sync.WaitGroup

	mu      sync.Mutex
	queue   []removal
	workers int
	free    []*rtnl.Conn
	// groups are the workers' group numbers that are not in use.
	groups []uint32
}

type removal struct {
	name string
	// done is buffered, it takes one answer.
	done chan error
}

// Workers bound how many threads wait in the kernel. groupBase is any number that others hardly use for groups of links.
const (
	workers   = 6
	groupBase = 0x66726d00
)

func newRemover(dial func() (*rtnl.Conn, error), exists func(name string) bool) *remover {
	r := &remover{dial: dial, exists: exists}
	for i := range uint32(workers) {
		r.groups = append(r.groups, groupBase+i)
	}
	return r
}

// remove deletes links, and returns when none of them can be found any more. One that does not exist is fine.
func (r *remover) remove(ctx context.Context, names ...string) error {
	done := make(chan error, len(names))
	r.mu.Lock()
	for _, name := range names {
		r.queue = append(r.queue, removal{name, done})
	}
	if r.workers < workers {
		r.workers++
		r.wg.Go(r.work)
	}
	r.mu.Unlock()
	var failed []error
	for range names {
		select {
		case err := <-done:
			failed = append(failed, err)
		case <-ctx.Done():
			return fmt.Errorf("delete links %v: %w", names, ctx.Err())
		}
	}
	return errors.Join(failed...)
}

// close waits for the workers.
func (r *remover) close() error {
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, c := range r.free {
		errs = append(errs, c.Close())
	}
	r.free = nil
	return errors.Join(errs...)
}

// work deletes what has gathered until nothing has.
func (r *remover) work() {
	for {
		r.mu.Lock()
		batch := r.queue
		r.queue = nil
		if len(batch) == 0 {
			r.workers--
			r.mu.Unlock()
			return
		}
		group := r.groups[len(r.groups)-1]
		r.groups = r.groups[:len(r.groups)-1]
		var conn *rtnl.Conn
		if n := len(r.free); n > 0 {
			conn, r.free = r.free[n-1], r.free[:n-1]
		}
		r.mu.Unlock()

		conn, err := r.perform(conn, batch, group)

		r.mu.Lock()
		r.groups = append(r.groups, group)
		if conn != nil && err == nil {
			r.free = append(r.free, conn)
			conn = nil
		}
		r.mu.Unlock()
		conn.Close() // whatever it says, it is of no use any more
	}
}

// perform deletes one batch and answers everybody in it.
func (r *remover) perform(conn *rtnl.Conn, batch []removal, group uint32) (*rtnl.Conn, error) {
	waiting := map[string][]removal{}
	var names []string
	for _, w := range batch {
		if waiting[w.name] == nil {
			names = append(names, w.name)
		}
		waiting[w.name] = append(waiting[w.name], w)
	}
	answer := func(name string, err error) {
		for _, w := range waiting[name] {
			w.done <- err
		}
		delete(waiting, name)
	}
	var err error
	if conn == nil {
		conn, err = r.dial()
	}
	if err == nil {
		err = conn.Delete(names, group, func(name string) { answer(name, nil) })
	}
	for name := range waiting {
		if errors.Is(err, syscall.ENOBUFS) && !r.exists(name) { // only the answer was lost
			answer(name, nil)
			continue
		}
		answer(name, err)
	}
	return conn, err
}
