package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FD owns one file descriptor: whoever holds the *FD closes it, exactly once. It is safe for concurrent use as far as the kernel
// is; closing while another goroutine uses the number is a bug, as everywhere.
type FD struct {
	n    atomic.Int64 // -1 once closed or released
	name string       // what it is, for errors and leak reports
}

// NewFD takes ownership of a descriptor that must already be close-on-exec. The name says what it is ("pidfd 12", "/proc").
func NewFD(n int, name string) *FD {
	f := &FD{name: name}
	f.n.Store(int64(n))
	trace(f)
	return f
}

// Int returns the number, still owned by f, or -1 when closed. It is safe on nil (-1).
func (f *FD) Int() int {
	if f == nil {
		return -1
	}
	return int(f.n.Load())
}

// Name returns what the descriptor is, as given at its birth.
func (f *FD) Name() string {
	if f == nil {
		return "no descriptor"
	}
	return f.name
}

// Close closes the descriptor. Closing nil or twice does nothing.
func (f *FD) Close() error {
	n := f.Release()
	if n < 0 {
		return nil
	}
	if err := unix.Close(n); err != nil && !errors.Is(err, unix.EINTR) { // EINTR: closed all the same, close(2)
		return fmt.Errorf("close %s: %w", f.name, err)
	}
	return nil
}

// Release gives up ownership and returns the number, -1 if there is none.
func (f *FD) Release() int {
	if f == nil {
		return -1
	}
	untrace(f)
	return int(f.n.Swap(-1))
}

// Dup returns a second descriptor for the same open file.
func (f *FD) Dup() (*FD, error) {
	n, err := unix.FcntlInt(uintptr(f.Int()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return NewFD(n, f.name), nil
}

// Hand keeps the descriptor open over execve(2) and returns its number; keep false takes that back.
func (f *FD) Hand(keep bool) (int, error) {
	if err := setCloseOnExec(f.Int(), !keep); err != nil {
		return 0, fmt.Errorf("hand %s on: %w", f.Name(), err)
	}
	return f.Int(), nil
}

func setCloseOnExec(number int, on bool) error {
	flags := 0
	if on {
		flags = unix.FD_CLOEXEC
	}
	_, err := unix.FcntlInt(uintptr(number), unix.F_SETFD, flags)
	return err
}

// Adopt takes a descriptor that an earlier program of this process had handed on.
func Adopt(number int, name string) (*FD, error) {
	if err := setCloseOnExec(number, true); err != nil {
		return nil, fmt.Errorf("adopt descriptor %d as %s: %w", number, name, err)
	}
	return NewFD(number, name), nil
}

// File turns the descriptor into an *os.File, which owns it from then on.
func (f *FD) File() *os.File { return os.NewFile(uintptr(f.Release()), f.name) }

// Path returns the /proc/self/fd path by which calls without an *at form reach the open file. Valid while f is open, in this process.
func (f *FD) Path() string { return fmt.Sprintf("/proc/self/fd/%d", f.Int()) }

// String describes the descriptor.
func (f *FD) String() string { return fmt.Sprintf("%s (fd %d)", f.Name(), f.Int()) }

// CloseAll closes every descriptor of a list and joins the errors.
func CloseAll(fds ...*FD) error {
	var errs []error
	for _, f := range fds {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Tracing remembers where each open FD was made. It is on in tests only (package testkit/leak): it costs a stack walk an FD.
var tracing struct {
	on   atomic.Bool
	mu   sync.Mutex
	born map[*FD][]uintptr
}

// TraceFDs starts remembering where descriptors are opened.
func TraceFDs() {
	tracing.mu.Lock()
	defer tracing.mu.Unlock()
	tracing.born = map[*FD][]uintptr{}
	tracing.on.Store(true)
}

// OpenFDs lists every FD opened since TraceFDs and not closed, with the calls that opened it.
func OpenFDs() []string {
	tracing.mu.Lock()
	defer tracing.mu.Unlock()
	var open []string
	for f, pcs := range tracing.born {
		var b strings.Builder
		fmt.Fprintf(&b, "%s opened at", f)
		frames := runtime.CallersFrames(pcs)
		for {
			fr, more := frames.Next()
			fmt.Fprintf(&b, "\n\t%s\n\t\t%s:%d", fr.Function, fr.File, fr.Line)
			if !more {
				break
			}
		}
		open = append(open, b.String())
	}
	return open
}

func trace(f *FD) {
	if !tracing.on.Load() {
		return
	}
	pcs := make([]uintptr, 12)
	pcs = pcs[:runtime.Callers(3, pcs)]
	tracing.mu.Lock()
	defer tracing.mu.Unlock()
	tracing.born[f] = pcs
}

func untrace(f *FD) {
	if !tracing.on.Load() {
		return
	}
	tracing.mu.Lock()
	defer tracing.mu.Unlock()
	delete(tracing.born, f)
}
