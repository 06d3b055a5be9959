package errs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want Kind
	}{
		{"a plain error is internal", io.EOF, Internal},
		{"a made error keeps its kind", New(NotFound, "find pod %q", "x"), NotFound},
		{"wrapping keeps the kind", fmt.Errorf("remove pod: %w", New(NotFound, "gone")), NotFound},
		{"the outermost kind wins", New(Unavailable, "pull: %w", New(NotFound, "gone")), Unavailable},
		{"%v closes an error, its kind is not askable", fmt.Errorf("pull: %v", New(NotFound, "gone")), Internal},
		{"a deadline is its own kind", fmt.Errorf("wait: %w", context.DeadlineExceeded), DeadlineExceeded},
		{"a cancellation is its own kind", fmt.Errorf("wait: %w", context.Canceled), Canceled},
		{"a kind given later wins over the context's", As(FailedPrecondition, context.Canceled), FailedPrecondition},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := KindOf(c.err); got != c.want {
				t.Errorf("KindOf(%v) = %v, want %v", c.err, got, c.want)
			}
		})
	}
	if Is(nil, Internal) {
		t.Error("no error is of no kind")
	}
	if As(NotFound, nil) != nil {
		t.Error("As makes an error of nothing")
	}
}

func TestCauseStaysAskable(t *testing.T) {
	if err := New(Unavailable, "read registry: %w", io.EOF); !errors.Is(err, io.EOF) {
		t.Errorf("%v lost its cause", err)
	}
}

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if k.String() == "" || seen[k.String()] {
			t.Errorf("kind %d has no name of its own: %q", k, k)
		}
		seen[k.String()] = true
	}
}
