package linux

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OpenPidfd returns a handle of the process with this PID: pidfd_open(2), Linux 5.3. The PID may be another process's by then; compare
// [FD.Inode] with a recorded one to be sure.
func OpenPidfd(pid int) (*FD, error) {
	return retryFD("open", fmt.Sprintf("pidfd of process %d", pid), func() (int, error) { return unix.PidfdOpen(pid, 0) })
}

// Signal sends a signal to the process of a pidfd; 0 only asks whether it is there (ESRCH if not).
func (f *FD) Signal(sig syscall.Signal) error {
	if err := retry(func() error { return unix.PidfdSendSignal(f.Int(), sig, nil, 0) }); err != nil {
		return fmt.Errorf("signal %d to %s: %w", sig, f.Name(), err)
	}
	return nil
}

// Inode returns the inode number of an open file: for a pidfd (pidfs, Linux 6.9) and for a namespace it is unique while the machine is up.
func (f *FD) Inode() (uint64, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.Int(), &st) }); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return st.Ino, nil
}

// Exit is how a process ended.
type Exit struct {
	// Code is the exit status, or 128 plus the signal's number.
	Code int
	// Signal is the signal that ended it, 0 if it exited by itself.
	Signal syscall.Signal
}

// exitOf reads a wait status.
func exitOf(ws unix.WaitStatus) Exit {
	if ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	}
	return Exit{Code: ws.ExitStatus()}
}

// WaitPidfd reaps the child whose pidfd f is, blocking until it has ended: waitid(P_PIDFD), Linux 5.4.
func (f *FD) WaitPidfd() (Exit, error) {
	var info siginfo
	err := retry(func() error {
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_PIDFD, uintptr(f.Int()), uintptr(unsafe.Pointer(&info)), unix.WEXITED, 0, 0)
		if e != 0 {
			return e
		}
		return nil
	})
	if err != nil {
		return Exit{}, fmt.Errorf("wait for %s: %w", f.Name(), err)
	}
	if info.code == cldExited {
		return Exit{Code: int(info.status)}, nil
	}
	return Exit{Code: 128 + int(info.status), Signal: syscall.Signal(info.status)}, nil
}

// PidfdEnded reports whether the process of a pidfd has ended, reaped or not: pidfd_open(2). (A signal, 0 too, still reaches what nobody has reaped.)
func (f *FD) PidfdEnded() bool {
	p := []unix.PollFd{{Fd: int32(f.Int()), Events: unix.POLLIN}}
	err := retry(func() error { _, err := unix.Poll(p, 0); return err })
	return err == nil && p[0].Revents&unix.POLLIN != 0
}

// WaitReaped waits until the process of a pidfd has ended and somebody has reaped it, for limit at most (ETIMEDOUT). Linux 6.15 tells; before, it may be
// waited for in vain.
func (f *FD) WaitReaped(limit time.Duration) error {
	for until := time.Now().Add(limit); ; {
		p := []unix.PollFd{{Fd: int32(f.Int())}}
		n, err := unix.Poll(p, int(time.Until(until).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait until %s is reaped: %w", f.Name(), err)
		case n == 0:
			return fmt.Errorf("wait until %s is reaped: %w", f.Name(), unix.ETIMEDOUT)
		default:
			return nil
		}
	}
}

// siginfo is the part of siginfo_t that waitid(2) fills, on 64-bit Linux.
type siginfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
	_                  [128 - 28]byte
}

const cldExited = 1 // CLD_EXITED of <bits/siginfo-consts.h>

// WaitPID reaps a child by PID, blocking until it has ended.
func WaitPID(pid int) (Exit, error) {
	var ws unix.WaitStatus
	err := retry(func() error { _, err := unix.Wait4(pid, &ws, 0, nil); return err })
	if err != nil {
		return Exit{}, fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return exitOf(ws), nil
}
