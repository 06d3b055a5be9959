package linux

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "linux") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func packetPair(t *testing.T) (a, b *Packets) {
	t.Helper()
	a, b, err := PacketPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestPacketsKeepTheirBordersAndDescriptors(t *testing.T) {
	path := filepath.Join(shortDir(t), "sock")
	l, err := ListenPackets(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(path); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := ListenPackets(path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listened twice: %v", err)
	}
	a, err := DialPackets(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r, w, err := OutputPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, p := range []string{"one", "two"} {
		if err := a.Send([]byte(p), []*FD{w, w}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	buf := make([]byte, 100)
	for _, want := range []string{"one", "two"} {
		n, fds, err := b.Receive(buf)
		if err != nil || string(buf[:n]) != want || len(fds) != 2 {
			t.Fatalf("received %q with %d descriptors, %v", buf[:n], len(fds), err)
		}
		if _, err := fds[1].Write([]byte(want)); err != nil {
			t.Error(err)
		}
		flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0].Int()), syscall.F_GETFD, 0)
		if flags&syscall.FD_CLOEXEC == 0 {
			t.Error("a received descriptor is inherited")
		}
		CloseAll(fds...)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "onetwo" {
		t.Errorf("through the descriptors came %q, %v", got, err)
	}
}

func TestPacketsThatDoNotFitAreRefused(t *testing.T) {
	a, b := packetPair(t)
	if err := a.Send(nil, nil); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("an empty packet, which would read as the end: %v", err)
	}
	if err := a.Send([]byte("x"), make([]*FD, PacketFDs+1)); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("too many descriptors: %v", err)
	}
	fd, err := OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := a.Send([]byte("too long"), []*FD{fd}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Receive(make([]byte, 3)); !errors.Is(err, syscall.EMSGSIZE) { // and nothing leaks
		t.Errorf("a packet longer than the buffer: %v", err)
	}
	if err := a.Send([]byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	if n, _, err := b.Receive(make([]byte, 3)); n != 1 || err != nil {
		t.Errorf("the next packet: %d, %v", n, err)
	}
}

func TestClosingEndsWaiting(t *testing.T) {
	a, b := packetPair(t)
	received := make(chan error, 1)
	go func() { _, _, err := a.Receive(make([]byte, 1)); received <- err }()
	a.Close()
	if err := <-received; !errors.Is(err, os.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
	if _, _, err := b.Receive(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other end's receive: %v", err)
	}
	c, _ := packetPair(t)
	sent := make(chan error, 1)
	go func() {
		for {
			if err := c.Send(make([]byte, 10000), nil); err != nil {
				sent <- err
				return
			}
		}
	}()
	c.Close()
	if err := <-sent; !errors.Is(err, os.ErrClosed) {
		t.Errorf("send: %v", err)
	}
	l, err := ListenPackets(filepath.Join(shortDir(t), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	l.Close()
	if err := <-accepted; !errors.Is(err, os.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "sock")
	if _, err := DialPackets(path); !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), path) {
		t.Errorf("no socket: %v", err)
	}
	l, err := ListenPackets(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := DialPackets(path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a socket without a listener: %v", err)
	}
	if _, err := ListenPackets("/" + strings.Repeat("x", 108)); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a path too long: %v", err)
	}
}
