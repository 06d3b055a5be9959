package pod

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// reapLimit bounds the cleaning after one process; what is left is found by reconciliation.
const reapLimit = time.Minute

// Exited takes in the end of a process that the supervisor held. It is called for one exit at a time and does not wait; an exit
// may come again after a reconnect and is then folded in once.
//
// Before [Manager.Recover] is through nobody knows whose exit it is: such exits are kept and taken in then.
// After [Manager.Close] exits are left to the next daemon, which is told of them again.
func (m *Manager) Exited(e Exit) {
	m.closing.RLock()
	defer m.closing.RUnlock()
	if m.closed {
		return
	}
	m.mu.Lock()
	if !m.recovered {
		m.unplaced = append(m.unplaced, e)
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()
	m.place(e)
}

// place gives an exit to whom it belongs.
func (m *Manager) place(e Exit) {
	if container, _, isExec := strings.Cut(e.ID, "/"); isExec {
		m.execEnded(container, e)
		return
	}
	if c, err := m.anyContainer(e.ID); err == nil {
		m.containerEnded(c, e)
		return
	}
	if p, err := m.anyPod(e.ID); err == nil {
		m.pauseEnded(p, e)
		return
	}
	m.forgetLater(e.ID) // of something removed meanwhile
}

// containerEnded folds a container's exit in, or keeps it for the start that has not been answered yet.
func (m *Manager) containerEnded(c *Container, e Exit) {
	c.pod.mu.Lock()
	switch c.record.State {
	case Starting:
		c.early = &e
		c.pod.mu.Unlock()
	case StateRun:
		c.pod.mu.Unlock()
		m.foldExit(c, e, exitReason(e), e.Note)
	case Exited: // told again: by whoever folded it in, the rest was perhaps not done
		c.pod.mu.Unlock()
		m.background.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), reapLimit)
			defer cancel()
			m.cleanUp(ctx, c)
		})
	default:
		c.pod.mu.Unlock()
		m.forgetLater(e.ID)
	}
}

// foldExit records how a container ended, once, and cleans up after it in the background; gone is closed when that is done.
func (m *Manager) foldExit(c *Container, e Exit, reason, message string) {
	first := m.noteContainer(c, func(r *ContainerRecord) bool {
		if r.State != StateRun && r.State != Starting {
			return false
		}
		r.State, r.Exit, r.Reason, r.Message = Exited, &e, reason, message
		if r.Started.IsZero() { // it was launched, and the daemon died before it could say so
			r.Started = e.Started
		}
		return true
	})
	if !first {
		return
	}
	c.closeInit()
	m.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), reapLimit)
		defer cancel()
		m.cleanUp(ctx, c)
		c.closeGone()
	})
}

// cleanUp takes away what is left of a container that has ended: processes (without a PID namespace of its own, or after an exec, some may be
// left: STP-6, STP-7), its cgroup, and last what the supervisor keeps of it. What cannot be done now is done when the container is removed, or
// by the next daemon, which the supervisor tells of the exit again.
func (m *Manager) cleanUp(ctx context.Context, c *Container) {
	c.pod.mu.Lock()
	cgroup := c.record.Cgroup
	unwritten := c.unwritten
	c.pod.mu.Unlock()
	err := m.removeCgroup(ctx, cgroup)
	if err == nil && unwritten && !m.noteContainer(c, func(*ContainerRecord) bool { return true }) {
		return // removed meanwhile
	}
	c.pod.mu.Lock()
	unwritten = c.unwritten
	c.pod.mu.Unlock()
	if err == nil && !unwritten { // else the supervisor alone knows of the exit
		err = m.Supervisor.Forget(ctx, c.id)
	}
	if err != nil {
		m.Log.Error("clean up after a container", "container", c.id, "error", err)
	}
	c.pod.mu.Lock()
	c.unclean = err != nil || unwritten
	c.pod.mu.Unlock()
}

// closeGone tells everybody who waits that nothing of the container runs any more.
func (c *Container) closeGone() {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	select {
	case <-c.gone:
	default:
		close(c.gone)
	}
}

// exitReason is the CRI's word for an exit.
func exitReason(e Exit) string {
	switch {
	case e.Unknown:
		return "Unknown"
	case e.OOMKilled && e.Code != 0:
		return "OOMKilled"
	case e.Code == 0:
		return "Completed"
	}
	return "Error"
}

func (m *Manager) forgetLater(id string) {
	m.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), reapLimit)
		defer cancel()
		if err := m.Supervisor.Forget(ctx, id); err != nil && !errs.Is(err, errs.NotFound) {
			m.Log.Error("forget an ended process", "id", id, "error", err)
		}
	})
}

// initHandle is the pidfd of a container's first process, opened when it is first needed after a restart.
type initHandle struct {
	mu sync.Mutex
	fd *linux.FD
}

func (h *initHandle) set(fd *linux.FD) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fd.Close()
	h.fd = fd
}

// dup returns a descriptor of the caller's own.
func (h *initHandle) dup(open func() (*linux.FD, error)) (*linux.FD, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd == nil {
		fd, err := open()
		if err != nil {
			return nil, err
		}
		h.fd = fd
	}
	return h.fd.Dup()
}

func (c *Container) closeInit() { c.init.set(nil) }

// kill ends a container at once and waits until nothing of it is left.
func (m *Manager) kill(ctx context.Context, c *Container) error {
	// A start under way ends first: until then there is nothing to signal.
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	c.op.release()
	gone := c.running()
	if gone == nil {
		return nil
	}
	err := m.Supervisor.Signal(ctx, c.id, syscall.SIGKILL)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of container %s: %w", c.id, ctx.Err())
	}
}

// running returns the channel that is closed when the container is gone, nil if nothing of it runs.
func (c *Container) running() chan struct{} {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.gone == nil {
		return nil
	}
	select {
	case <-c.gone:
		return nil
	default:
		return c.gone
	}
}
