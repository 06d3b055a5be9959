package linux

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	lastSignal   = 64
	sigsetSize   = 8
	sigIgn       = 1 // SIG_IGN; SIG_DFL is 0
	sigactionMax = 4 // words: handler, flags, restorer (amd64), mask
)

// DefaultIgnoredSignals gives every signal that this process ignores its default action. What is ignored stays so over execve(2), so a program
// started by one that ignores signals would hand that on to everybody: nohup ignores SIGHUP, and what GNU make starts ignores 32 and 33, which
// glibc's posix_spawn leaves so. Signals with a handler (the Go runtime's) stay as they are.
func DefaultIgnoredSignals() error {
	for s := 1; s <= lastSignal; s++ {
		var now [sigactionMax]uintptr
		if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&now)), sigsetSize, 0, 0); e != 0 {
			return fmt.Errorf("look at signal %d: %w", s, e)
		}
		if now[0] != sigIgn {
			continue
		}
		now = [sigactionMax]uintptr{}
		if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&now)), 0, sigsetSize, 0, 0); e != 0 {
			return fmt.Errorf("reset signal %d: %w", s, e)
		}
	}
	return nil
}
