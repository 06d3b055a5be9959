package daemon

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// holds are second descriptors of what would end with the keeper, were it killed: the contents of a container's FIFOs once the container is gone, its stdin's
// writing end (a reader would see an end of file), its terminal's master (it would hang up).
type holds struct {
	state string // the state directory
	mu    sync.Mutex
	of    map[string]*hold // by container ID
}

// hold is a container's, or a pod's namespaces. Members are nil where it has none.
type hold struct {
	stdin, console, stdout, stderr *linux.FD
	namespaces                     map[string]*linux.FD
}

func (h *hold) close() {
	linux.CloseAll(h.stdin, h.console, h.stdout, h.stderr)
	closeNamespaces(h.namespaces)
}

// takePod holds a pod's namespaces: without keeper and pause, were both killed, its nursery would be nobody's.
func (h *holds) takePod(ctx context.Context, c *client.Client, id string) error {
	held, err := c.Namespaces(ctx, id)
	if errs.Is(err, errs.FailedPrecondition) || errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.of[id]; old != nil {
		old.close()
	}
	h.of[id] = &hold{namespaces: held}
	return nil
}

// pod duplicates what is held of a pod's namespaces; nil if nothing is.
func (h *holds) pod(id string) (map[string]*linux.FD, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.of[id]
	if held == nil || len(held.namespaces) == 0 {
		return nil, nil
	}
	dups := map[string]*linux.FD{}
	for kind, fd := range held.namespaces {
		dup, err := fd.Dup()
		if err != nil {
			closeNamespaces(dups)
			return nil, err
		}
		dups[kind] = dup
	}
	return dups, nil
}

// take holds what a container has; console, nil without one, is duplicated. A container that ended meanwhile, so that nobody will release it, is not held.
func (h *holds) take(ctx context.Context, c *client.Client, id string, pidfd, console *linux.FD) error {
	var got hold
	var failed []error
	dup := func(to **linux.FD, fd *linux.FD, err error) {
		*to = fd
		if !errs.Is(err, errs.FailedPrecondition) && !errs.Is(err, errs.NotFound) && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	if console != nil {
		fd, err := console.Dup()
		dup(&got.console, fd, err)
	} else {
		for stream, to := range map[string]**linux.FD{"stdout": &got.stdout, "stderr": &got.stderr} {
			fd, err := linux.Open(wire.FIFOPath(h.state, id, stream), os.O_RDONLY|syscall.O_NONBLOCK, 0)
			dup(to, fd, err)
		}
		if _, err := os.Stat(wire.FIFOPath(h.state, id, "stdin")); err == nil {
			fd, err := c.Stdin(ctx, id)
			dup(&got.stdin, fd, err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if pidfd.Signal(0) != nil { // the keeper reaps a process before it tells of its exit
		got.close()
		return nil
	}
	if old := h.of[id]; old != nil {
		old.close()
	}
	h.of[id] = &got
	return errors.Join(failed...)
}

// release lets go of an ended container's. A pod's namespaces are kept until it is forgotten.
func (h *holds) release(e *wire.Exit) {
	if e.Kind != wire.Pause {
		h.drop(e.ID)
	}
}

// drop lets go of what is held of a pod or container.
func (h *holds) drop(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.of[id]; held != nil {
		held.close()
		delete(h.of, id)
	}
}

// closeStdin lets a container's stdin come to its end, as far as this descriptor goes.
func (h *holds) closeStdin(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.of[id]; held != nil {
		held.stdin.Close()
		held.stdin = nil
	}
}

// end lets go of all.
func (h *holds) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, held := range h.of {
		held.close()
	}
	clear(h.of)
	return nil
}

// exchange gives a keeper that follows one that was killed the masters of terminals, and takes hold of what a daemon that was killed had held.
func (h *holds) exchange(ctx context.Context, c *client.Client) error {
	processes, err := c.Processes(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, p := range processes {
		if p.Kind == wire.Pause && !h.has(p.ID) {
			failed = append(failed, h.takePod(ctx, c, p.ID))
		}
		if p.Exit != nil || p.Kind != wire.Container {
			continue
		}
		h.mu.Lock()
		held := h.of[p.ID]
		var console *linux.FD
		if held != nil && held.console != nil {
			console, err = held.console.Dup()
			failed = append(failed, err)
		}
		h.mu.Unlock()
		switch {
		case console != nil:
			if err := c.Restore(ctx, p.ID, console); err != nil && !errs.Is(err, errs.FailedPrecondition) {
				failed = append(failed, err)
			}
			console.Close()
		case held == nil:
			failed = append(failed, h.find(ctx, c, p.ID))
		}
	}
	return errors.Join(failed...)
}

func (h *holds) has(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.of[id] != nil
}

// find takes hold of what a container has of which only the keeper knows.
func (h *holds) find(ctx context.Context, c *client.Client, id string) error {
	pidfd, err := c.Pidfd(ctx, id)
	if errs.Is(err, errs.FailedPrecondition) || errs.Is(err, errs.NotFound) { // it has ended
		return nil
	}
	if err != nil {
		return err
	}
	defer pidfd.Close()
	console, err := c.Console(ctx, id)
	if err != nil && !errs.Is(err, errs.FailedPrecondition) && !errs.Is(err, errs.NotFound) {
		return err
	}
	defer console.Close()
	return h.take(ctx, c, id, pidfd, console)
}
