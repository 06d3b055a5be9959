package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// PacketFDs is how many descriptors one packet of [Packets] may carry (the kernel's SCM_MAX_FD is 253).
const PacketFDs = 64

// Packets is one end of a connection that keeps messages apart and carries descriptors: SOCK_SEQPACKET of unix(7). Calls block the
// goroutine, not a thread; Close ends them. Sending and receiving may happen at once, but neither twice at once.
type Packets struct {
	file  *os.File
	raw   syscall.RawConn
	owner *FD // for leak reports only: file owns the number
	close sync.Once
}

// PacketListener accepts [Packets] at a path.
type PacketListener struct {
	socket Packets
}

// ListenPackets makes a socket at path that only its owner may connect to (0600). A file in its place is EADDRINUSE: who is alone
// removes it first.
func ListenPackets(path string) (*PacketListener, error) {
	f, err := seqpacket(path)
	if err != nil {
		return nil, err
	}
	// The socket's own mode becomes the path's at bind(2), so there is no moment at which others could connect.
	err = retry(func() error { return unix.Fchmod(f.Int(), 0o600) })
	if err == nil {
		err = unix.Bind(f.Int(), &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(f.Int(), 128)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l := &PacketListener{}
	return l, l.socket.init(f)
}

// PeerPID is the process that listened when this end connected, in this process's PID namespace: SO_PEERCRED, unix(7).
func (p *Packets) PeerPID() (int, error) {
	var peer *unix.Ucred
	var err error
	if closed := p.raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); closed != nil {
		return 0, fmt.Errorf("find peer of %s: %w", p.owner.name, os.ErrClosed)
	}
	if err != nil {
		return 0, fmt.Errorf("find peer of %s: %w", p.owner.name, err)
	}
	return int(peer.Pid), nil
}

// Accept waits for a connection. After Close it returns os.ErrClosed.
func (l *PacketListener) Accept() (*Packets, error) {
	var f *FD
	var err error
	closed := l.socket.raw.Read(func(fd uintptr) bool {
		f, err = retryFD("accept at", l.socket.owner.name, func() (int, error) {
			n, _, err := unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return n, err
		})
		return !errors.Is(err, unix.EAGAIN)
	})
	if closed != nil {
		return nil, fmt.Errorf("accept at %s: %w", l.socket.owner.name, os.ErrClosed)
	}
	if err != nil {
		return nil, err
	}
	f.name = "connection at " + l.socket.owner.name
	return newPackets(f)
}

// AdoptListener takes a listening socket that an earlier program of this process had.
func AdoptListener(number int, path string) (*PacketListener, error) {
	l := &PacketListener{}
	f, err := Adopt(number, path)
	if err != nil {
		return nil, err
	}
	return l, l.socket.init(f)
}

// Hand keeps the socket open over execve(2) and returns its number; keep false takes that back.
func (l *PacketListener) Hand(keep bool) (int, error) { return l.socket.Hand(keep) }

// Wait waits until there is a connection to accept.
func (l *PacketListener) Wait() error { return l.socket.Wait() }

// Close stops listening. The path stays.
func (l *PacketListener) Close() error { return l.socket.Close() }

// DialPackets connects to a socket. Nobody listening is ECONNREFUSED or ENOENT.
func DialPackets(path string) (*Packets, error) {
	f, err := seqpacket(path)
	if err != nil {
		return nil, err
	}
	// Connecting to a unix socket waits only for room in the backlog, which a non-blocking socket reports as EAGAIN.
	if err := retry(func() error { return unix.Connect(f.Int(), &unix.SockaddrUnix{Name: path}) }); err != nil {
		f.Close()
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return newPackets(f)
}

// AdoptPackets takes a connection that an earlier program of this process had.
func AdoptPackets(number int, name string) (*Packets, error) {
	f, err := Adopt(number, name)
	if err != nil {
		return nil, err
	}
	return newPackets(f)
}

// Hand keeps the connection open over execve(2) and returns its number; keep false takes that back.
func (p *Packets) Hand(keep bool) (number int, err error) {
	closed := p.raw.Control(func(fd uintptr) {
		number = int(fd)
		err = setCloseOnExec(number, !keep)
	})
	if closed != nil {
		err = os.ErrClosed
	}
	if err != nil {
		return 0, fmt.Errorf("hand %s on: %w", p.file.Name(), err)
	}
	return number, nil
}

// Wait waits until there is something to receive, or nothing ever will be.
func (p *Packets) Wait() error {
	closed := p.raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		err := retry(func() error { _, err := unix.Poll(ready, 0); return err })
		return err != nil || ready[0].Revents != 0
	})
	if closed != nil {
		return fmt.Errorf("receive from %s: %w", p.file.Name(), os.ErrClosed)
	}
	return nil
}

// PacketPair returns the two ends of a connection.
func PacketPair() (a, b *Packets, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	if a, err = newPackets(NewFD(fds[0], "socket pair, first")); err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	if b, err = newPackets(NewFD(fds[1], "socket pair, second")); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

func seqpacket(path string) (*FD, error) {
	return retryFD("make socket", path, func() (int, error) {
		return unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	})
}

func newPackets(f *FD) (*Packets, error) {
	p := &Packets{}
	if err := p.init(f); err != nil {
		return nil, err
	}
	return p, nil
}

// init hands a non-blocking socket to the runtime's poller.
func (p *Packets) init(f *FD) error {
	p.owner = f
	p.file = os.NewFile(uintptr(f.Int()), f.Name())
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.Close()
		return fmt.Errorf("poll %s: %w", f.Name(), err)
	}
	return nil
}

// Close ends the connection; whoever waits in Send or Receive gets os.ErrClosed. Closing twice does nothing.
func (p *Packets) Close() (err error) {
	p.close.Do(func() {
		p.owner.Release()
		err = p.file.Close()
	})
	return err
}

// Send sends one packet, waiting for room. It must not be empty, carries at most PacketFDs descriptors (which stay the caller's), and
// arrives whole or not at all.
func (p *Packets) Send(b []byte, fds []*FD) error {
	if len(b) == 0 || len(fds) > PacketFDs {
		return fmt.Errorf("send %d bytes, %d descriptors to %s: %w", len(b), len(fds), p.file.Name(), unix.EINVAL)
	}
	var rights []byte
	if len(fds) > 0 {
		numbers := make([]int, len(fds))
		for i, f := range fds {
			numbers[i] = f.Int()
		}
		rights = unix.UnixRights(numbers...)
	}
	var err error
	closed := p.raw.Write(func(fd uintptr) bool {
		err = retry(func() error {
			_, err := unix.SendmsgN(int(fd), b, rights, nil, unix.MSG_NOSIGNAL)
			return err
		})
		return err != unix.EAGAIN
	})
	if closed != nil {
		err = os.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("send to %s: %w", p.file.Name(), err)
	}
	return nil
}

// Receive waits for a packet and returns its length in b and its descriptors, which the caller owns. A packet longer than b is
// EMSGSIZE and lost. After the other end closed, io.EOF.
func (p *Packets) Receive(b []byte) (n int, fds []*FD, err error) {
	rights := make([]byte, unix.CmsgSpace(4*PacketFDs))
	var oobn, flags int
	closed := p.raw.Read(func(fd uintptr) bool {
		err = retry(func() error {
			var err error
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), b, rights, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		return err != unix.EAGAIN
	})
	switch {
	case closed != nil:
		return 0, nil, fmt.Errorf("receive from %s: %w", p.file.Name(), os.ErrClosed)
	case err != nil:
		return 0, nil, fmt.Errorf("receive from %s: %w", p.file.Name(), err)
	}
	if fds, err = receivedFDs(rights[:oobn], p.file.Name()); err != nil {
		return 0, nil, err
	}
	switch {
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		CloseAll(fds...)
		return 0, nil, fmt.Errorf("receive from %s: %w", p.file.Name(), unix.EMSGSIZE)
	case n == 0:
		CloseAll(fds...)
		return 0, nil, io.EOF
	}
	return n, fds, nil
}

// receivedFDs takes the descriptors out of control messages.
func receivedFDs(oob []byte, from string) ([]*FD, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive from %s: %w", from, err)
	}
	var fds []*FD
	for i := range messages {
		if numbers, err := unix.ParseUnixRights(&messages[i]); err == nil {
			for _, n := range numbers {
				fds = append(fds, NewFD(n, "descriptor received from "+from))
			}
		}
	}
	return fds, nil
}
