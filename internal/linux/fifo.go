package linux

import (
	"fmt"
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

// Pipe returns the two ends of a pipe. The reader does not block when asked so; the writer does.
func Pipe(name string, readNonblock bool) (r, w *FD, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe %s: %w", name, err)
	}
	r, w = NewFD(fds[0], "pipe "+name+", reader"), NewFD(fds[1], "pipe "+name+", writer")
	if readNonblock {
		if err := r.SetNonblock(true); err != nil {
			CloseAll(r, w)
			return nil, nil, err
		}
	}
	return r, w, nil
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

// ReadAt reads from an offset without moving the descriptor's; 0 bytes is the end.
func (f *FD) ReadAt(p []byte, offset int64) (n int, err error) {
	err = retry(func() (err error) { n, err = unix.Pread(f.Int(), p, offset); return err })
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return n, nil
}
