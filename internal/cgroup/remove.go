package cgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"fermata/internal/errs"
)

// Remove removes the group and all below it from every hierarchy; absent is fine. It kills nothing, but waits for what is dying: on v2 by event
// until ctx ends, on v1 for a bounded time. With live processes it ends in FailedPrecondition, or in ctx's error; every hierarchy is tried all
// the same.
func (g *Group) Remove(ctx context.Context) error {
	if g.err != nil {
		return g.err
	}
	var failed []error
	for _, h := range slices.Backward(g.in) { // v2 first: its event says when the dying are gone
		if err := h.remove(ctx, g.rel); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("remove control group %s: %w", g.Path(), errors.Join(failed...))
}

// remove removes a subtree of one hierarchy. The usual group is a leaf, gone at the first call.
func (h *hierarchy) remove(ctx context.Context, rel string) error {
	busy := func(err error) bool { return errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY) }
	err := h.root.RmdirPath(rel)
	if !busy(err) {
		return absent(err)
	}
	children, err := h.children(rel)
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := h.remove(ctx, rel+"/"+c); err != nil {
			return err
		}
	}
	if h.version == V2 {
		if err := h.await(ctx, rel, "populated", 0); err != nil {
			return err
		}
	}
	// A process leaves its group a little after its last sign of life, and of that v1 tells nobody.
	err = poll(ctx, func() (bool, error) {
		err := h.root.RmdirPath(rel)
		return !busy(err), absent(notBusy(err, busy))
	})
	if errs.Is(err, errs.DeadlineExceeded) && ctx.Err() == nil {
		pids, _ := h.processes(rel)
		return errs.New(errs.FailedPrecondition, "%s/%s: processes %v are in it", h.root.Name(), rel, pids)
	}
	return err
}

func notBusy(err error, busy func(error) bool) error {
	if busy(err) {
		return nil
	}
	return err
}

// absent takes the removal of what is not there for done.
func absent(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}
