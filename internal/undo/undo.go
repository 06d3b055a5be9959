// Package undo is what every pipeline is made with: named steps, and the rollback stack on which what was done is registered with its undoing on the
// next line. On failure everything is undone in reverse order, each on the same fresh deadline, none skipped because another failed.
package undo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fermata/internal/errs"
	"fermata/internal/failpoint"
)

// Limit bounds one whole rollback. It is generous: what is being undone (a network, a process) may itself be slow, and
// giving up leaves work for reconciliation.
const Limit = time.Minute

// Stack is what has been done so far and how to undo it. The zero value is ready to use. It is not safe for concurrent use:
// one pipeline owns it.
type Stack struct {
	steps []step
}

type step struct {
	name string
	undo func(context.Context) error
}

// Step runs one named step of a pipeline ("run/cgroup"). A panic in it is an error, so that what was done before is undone as after any other; and
// tests can make it fail at its beginning and at its end (package failpoint).
func Step(place string, do func() error) error {
	return errs.Guard(func() error {
		if err := failpoint.Hit(place); err != nil {
			return err
		}
		if err := do(); err != nil {
			return err
		}
		return failpoint.Hit(failpoint.Done(place))
	})
}

// Push registers the undoing of something just done. The name is of the thing done ("network", "cgroup /a/b").
func (s *Stack) Push(name string, undo func(context.Context) error) {
	s.steps = append(s.steps, step{name, undo})
}

// Commit forgets every undoing: what was done stays.
func (s *Stack) Commit() { s.steps = nil }

// Rollback undoes everything registered, newest first, and empties the stack. It runs apart from ctx's end (the caller's
// giving up is often why it runs), bounded by [Limit], and joins the errors, each naming what could not be undone.
func (s *Stack) Rollback(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit)
	defer cancel()
	var failed []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		if err := s.steps[i].undo(ctx); err != nil {
			failed = append(failed, fmt.Errorf("undo %s: %w", s.steps[i].name, err))
		}
	}
	s.steps = nil
	return errors.Join(failed...)
}

// OnError rolls back if *err is set, and adds what could not be undone to it without changing its kind. Use it deferred:
//
//	var u undo.Stack
//	defer u.OnError(ctx, &err)
func (s *Stack) OnError(ctx context.Context, err *error) {
	if *err == nil {
		s.Commit()
		return
	}
	if left := s.Rollback(ctx); left != nil {
		*err = fmt.Errorf("%w (and %v)", *err, left)
	}
}
