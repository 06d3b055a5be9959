package undo

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestRollbackRunsAllInReverseThoughSomeFail(t *testing.T) {
	var s Stack
	var ran []string
	add := func(name string, err error) {
		s.Push(name, func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Errorf("undo %s got a context that had ended", name)
			}
			ran = append(ran, name)
			return err
		})
	}
	add("first", nil)
	add("second", io.EOF)
	add("third", io.ErrClosedPipe)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a caller who gave up must not stop the undoing
	err := s.Rollback(ctx)
	if want := []string{"third", "second", "first"}; !slices.Equal(ran, want) {
		t.Errorf("undone in order %v, want %v", ran, want)
	}
	if !errors.Is(err, io.EOF) || !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), "undo second") {
		t.Errorf("error %v does not name both failures", err)
	}
	ran = nil
	if err := s.Rollback(ctx); err != nil || ran != nil {
		t.Errorf("a second rollback did %v, error %v", ran, err)
	}
}

func TestOnError(t *testing.T) {
	undone := false
	do := func(fail error) (err error) {
		undone = false
		var s Stack
		defer s.OnError(t.Context(), &err)
		s.Push("step", func(context.Context) error { undone = true; return nil })
		return fail
	}
	if err := do(nil); err != nil || undone {
		t.Errorf("success: error %v, undone %v", err, undone)
	}
	if err := do(io.EOF); !errors.Is(err, io.EOF) || !undone {
		t.Errorf("failure: error %v, undone %v", err, undone)
	}
}
