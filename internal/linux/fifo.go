package linux

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Mkfifo makes a FIFO that only the given user may open (0600).
func Mkfifo(path string, uid, gid uint32) error {
	if err := retry(func() error { return unix.Mkfifo(path, 0o600) }); err != nil {
		return fmt.Errorf("make fifo %s: %w", path, err)
	}
	if uid == 0 && gid == 0 && os.Geteuid() == 0 {
		return nil
	}
	if err := retry(func() error { return unix.Lchown(path, int(uid), int(gid)) }); err != nil {
		os.Remove(path)
		return fmt.Errorf("own fifo %s: %w", path, err)
	}
	return nil
}

// SetNonblock changes whether reads and writes of the open file (all its descriptors) return EAGAIN instead of waiting.
func (f *FD) SetNonblock(nonblock bool) error {
	if err := unix.SetNonblock(f.Int(), nonblock); err != nil {
		return fmt.Errorf("set non-blocking %s: %w", f.Name(), err)
	}
	return nil
}

// SetPipeSize asks for room for n bytes in a pipe. Over /proc/sys/fs/pipe-max-size it is EPERM without CAP_SYS_RESOURCE.
func (f *FD) SetPipeSize(n int) error {
	if _, err := unix.FcntlInt(uintptr(f.Int()), unix.F_SETPIPE_SZ, n); err != nil {
		return fmt.Errorf("set size of %s: %w", f.Name(), err)
	}
	return nil
}

// Readable is how many bytes a pipe or a terminal's master has to be read now: FIONREAD, which is TIOCINQ, ioctl_tty(2).
func (f *FD) Readable() (int, error) {
	n, err := unix.IoctlGetInt(f.Int(), unix.TIOCINQ)
	if err != nil {
		return 0, fmt.Errorf("ask what is in %s: %w", f.Name(), err)
	}
	return n, nil
}

// HungUp reports whether there is nothing to be read from a pipe or a terminal's master, and nobody who could write. A FIFO that had no writer when it was
// opened never says so.
//
// A hang-up is believed when it is told twice: n_tty looks for input first and for the other side's end after it, so what was written in between
// together with the end is still there to be read (seen on Linux 6.18).
func (f *FD) HungUp() bool {
	for range 2 {
		p := []unix.PollFd{{Fd: int32(f.Int()), Events: unix.POLLIN}}
		err := retry(func() error { _, err := unix.Poll(p, 0); return err })
		if err != nil || p[0].Revents&unix.POLLIN != 0 || p[0].Revents&(unix.POLLHUP|unix.POLLERR) == 0 {
			return false
		}
	}
	return true
}

// Tee copies up to n bytes of what is in a pipe to another pipe without taking them: tee(2). It does not wait.
func (f *FD) Tee(to *FD, n int) (int, error) {
	var copied int64
	err := retry(func() (err error) { copied, err = unix.Tee(f.Int(), to.Int(), n, unix.SPLICE_F_NONBLOCK); return err })
	if err != nil {
		return 0, fmt.Errorf("look into %s: %w", f.Name(), err)
	}
	return int(copied), nil
}

// ReadNow reads what is there from a non-blocking descriptor: 0 and no error when that is nothing, io.EOF when every writer is gone
// (for a pty's master: when it was hung up).
//
// A hang-up is believed when it is told twice: n_tty_read looks for input first and for the other side's end after it, so what was written in between
// together with the end is still there to be read (seen on Linux 6.18).
func (f *FD) ReadNow(p []byte) (n int, err error) {
	for hungUp := false; ; {
		n, err = unix.Read(f.Int(), p)
		switch {
		case err == unix.EINTR:
		case err == unix.EIO && !hungUp:
			hungUp = true
		case err == unix.EAGAIN:
			return 0, nil
		case err == unix.EIO, err == nil && n == 0 && len(p) > 0:
			return 0, io.EOF
		case err != nil:
			return 0, fmt.Errorf("read %s: %w", f.Name(), err)
		default:
			return n, nil
		}
	}
}
