package linux

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// PollPeerGone reports a socket whose other end has closed, or shut down its writing (EPOLLRDHUP), whatever is still to be read.
const PollPeerGone = unix.EPOLLRDHUP

// DupConn returns a second descriptor of a connection's socket.
func DupConn(c syscall.Conn) (*FD, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate socket: %w", err)
	}
	n := -1
	var failed error
	err = raw.Control(func(fd uintptr) { n, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("duplicate socket: %w", err)
	}
	return NewFD(n, "socket"), nil
}

// InputPipe makes a pipe whose reading end is for a process that knows nothing of this one, and whose writing end is here: writes wait in Go's
// poller, so closing it ends them.
func InputPipe() (*FD, *os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	r := NewFD(p[0], "pipe for input")
	if err := unix.SetNonblock(p[1], true); err != nil {
		unix.Close(p[1])
		r.Close()
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return r, os.NewFile(uintptr(p[1]), "pipe for input"), nil
}

// WriteNow writes what there is room for to a non-blocking descriptor and returns how much that was: less than all, and no error, when
// there was no more room.
func (f *FD) WriteNow(p []byte) (int, error) {
	for done := 0; ; {
		n, err := unix.Write(f.Int(), p[done:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return done, nil
		case err != nil:
			return done, fmt.Errorf("write %s: %w", f.Name(), err)
		default:
			if done += n; done >= len(p) {
				return done, nil
			}
		}
	}
}
