package errs

import (
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"testing"
)

func TestTheCulpritIsWhoWasNamedClosestToTheCause(t *testing.T) {
	refused := New(Unavailable, "dial: %w", syscall.ECONNREFUSED)
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"nobody was named", fmt.Errorf("stage: %w", io.EOF), ""},
		{"one was", fmt.Errorf("network: %w", Blame(refused, "CNI plugin", "bridge")), "CNI plugin bridge"},
		{"the innermost counts", Blame(fmt.Errorf("pull: %w", Blame(refused, "registry", "a.test")), "image", "a.test/b"), "registry a.test"},
		{"a full disk comes first", Blame(&fs.PathError{Op: "write", Path: "/var/x", Err: syscall.ENOSPC}, "image", "a"), "disk of /var/x"},
		{"also without its path", fmt.Errorf("write: %w", syscall.EROFS), "disk (full, read-only or broken)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := CulpritOf(c.err).String(); got != c.want {
				t.Errorf("CulpritOf(%v) = %q, want %q", c.err, got, c.want)
			}
		})
	}
	blamed := Blame(refused, "registry", "a.test")
	if KindOf(blamed) != Unavailable || blamed.Error() != refused.Error() || Blame(nil, "a", "b") != nil {
		t.Errorf("blaming changed the error: %v (%v)", blamed, KindOf(blamed))
	}
}
