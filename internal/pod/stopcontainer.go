package pod

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"fermata/internal/errs"
)

// StopContainer asks a container to end and kills it when its grace is over (0: at once). It returns when nothing of the container runs.
//
// The signal is sent once however often this is called; each call's own grace counts, so a later, shorter one shortens (STP-4, STP-5). A
// caller that gives up kills nothing.
func (m *Manager) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	c, err := m.findContainer(id)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if grace <= 0 {
		return m.kill(ctx, c)
	}
	if err := c.op.acquire(ctx); err != nil { // a start under way ends first
		return err
	}
	err = c.journal.perform("stop", step{"signal", func() error { return m.askToEnd(ctx, c) }})
	c.op.release()
	if err != nil {
		return fmt.Errorf("stop container %s: %w", c.id, err)
	}
	gone := c.running()
	if gone == nil {
		return nil
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: wait for its end: %w", c.id, ctx.Err())
	case <-t.C:
		return m.kill(ctx, c)
	}
}

// askToEnd sends the stop signal, the first time.
func (m *Manager) askToEnd(ctx context.Context, c *Container) error {
	sig := syscall.Signal(0)
	first := m.noteContainer(c, func(r *ContainerRecord) bool {
		if r.State != StateRun || r.Signalled {
			return false
		}
		r.Signalled, sig = true, r.StopSignal
		return true
	})
	if !first {
		return nil
	}
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	if err := m.Supervisor.Signal(ctx, c.id, sig); err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	return nil
}

// RemoveContainer kills a container if it runs and removes all of it but its log. Unknown is fine.
func (m *Manager) RemoveContainer(ctx context.Context, id string) error {
	c, err := m.findContainer(id)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.removeContainer(ctx, c)
}

func (m *Manager) removeContainer(ctx context.Context, c *Container) error {
	if err := m.kill(ctx, c); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	defer c.op.release()
	state := c.snapshot().State
	switch state {
	case Removing:
		return nil // another call did it while this one waited
	case Starting, StateRun:
		return errs.New(errs.FailedPrecondition, "remove container %s: it was started meanwhile", c.id)
	}
	// Not written: until its record is gone the container on disk is one that has ended, and removing it once more finishes this.
	c.pod.mu.Lock()
	err := move(containerMoves, "container "+c.id, state, Removing)
	visible := c.visible
	if err == nil {
		c.record.State, c.visible = Removing, false
	}
	c.pod.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.discard(ctx, c); err != nil { // it is there as before, to be removed once more
		c.pod.mu.Lock()
		c.record.State, c.visible = state, visible
		c.pod.mu.Unlock()
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	if visible {
		m.tellNow(c.pod, c.id, eventDeleted)
	}
	return nil
}

// discard takes away what a container that does not run has.
func (m *Manager) discard(ctx context.Context, c *Container) error {
	c.pod.mu.Lock()
	unclean, r := c.unclean, c.record
	c.pod.mu.Unlock()
	return c.journal.perform("remove-container", []step{
		{"leftovers", func() error {
			if !unclean { // its end was cleaned up after
				return nil
			}
			if err := m.removeCgroup(ctx, r.Cgroup); err != nil {
				return err
			}
			return m.Supervisor.Forget(ctx, c.id)
		}},
		{"image", func() error { return m.releaseImages(&r) }},
		{"record", func() error {
			c.closeInit()
			return m.dropContainer(c)
		}},
	}...)
}
