package errs

import (
	"io"
	"strings"
	"testing"
)

func TestGuardTurnsAPanicIntoAnErrorThatNamesItsPlace(t *testing.T) {
	err := Guard(func() error { panic("out of tune") })
	if KindOf(err) != Internal || err == nil || !strings.Contains(err.Error(), "out of tune") || !strings.Contains(err.Error(), "guard_test.go:") {
		t.Errorf("Guard = %v", err)
	}
	if err := Guard(func() error { var a []int; a[len(a)]++; return nil }); err == nil || !strings.Contains(err.Error(), "guard_test.go:") {
		t.Errorf("a panic of the Go runtime: %v", err)
	}
	if err := Guard(func() error { return io.EOF }); err != io.EOF {
		t.Errorf("an error came back as %v", err)
	}
}
