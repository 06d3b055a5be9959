package linux

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of seccomp(SECCOMP_SET_MODE_FILTER), by the names OCI profiles use.
const (
	SeccompFlagTsync            = unix.SECCOMP_FILTER_FLAG_TSYNC
	SeccompFlagLog              = unix.SECCOMP_FILTER_FLAG_LOG                // Linux 4.14
	SeccompFlagSpecAllow        = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW         // Linux 4.17
	SeccompFlagWaitKillableRecv = unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV // Linux 5.19
)

// NoNewPrivs makes the calling thread, and what it starts, unable to gain privileges by execve: PR_SET_NO_NEW_PRIVS. For good.
func NoNewPrivs() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// SeccompFilter loads a program (an array of struct sock_filter) on the calling thread, on all threads of the process with
// [SeccompFlagTsync]. For good.
func SeccompFilter(program []byte, flags uint) error {
	if len(program) == 0 || len(program)%8 != 0 || len(program)/8 > unix.BPF_MAXINSNS {
		return fmt.Errorf("load seccomp filter: %d bytes: %w", len(program), unix.EINVAL)
	}
	prog := unix.SockFprog{Len: uint16(len(program) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
	thread, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	if e != 0 {
		return fmt.Errorf("load seccomp filter: %w", e)
	}
	if thread != 0 { // TSYNC: this thread has a filter of its own
		return fmt.Errorf("load seccomp filter: thread %d has another: %w", thread, unix.EBUSY)
	}
	return nil
}
