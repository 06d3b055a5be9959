package wire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

var when = time.Unix(1700000000, 123456789)

func exit() *Exit {
	return &Exit{ID: "c", Kind: Container, PID: 12, Code: 137, Signal: syscall.SIGKILL, OOMKilled: true, Started: when, Finished: when.Add(time.Second), LogDropped: 99}
}

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	x, y, err := linux.PacketPair()
	if err != nil {
		t.Fatal(err)
	}
	a, b = NewConn(x), NewConn(y)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func open(t *testing.T, n int) []*linux.FD {
	t.Helper()
	var fds []*linux.FD
	for range n {
		f, err := linux.Open("/dev/null", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		fds = append(fds, f)
	}
	return fds
}

func TestMessagesArriveAsSent(t *testing.T) {
	for _, c := range []struct {
		name string
		body int
		fds  int
	}{
		{"an empty message", 0, 0},
		{"a body of one packet", maxPacket - headerSize, 1},
		{"a body of one packet and a byte", maxPacket - headerSize + 1, 0},
		{"the longest body", MaxMessage, 2},
		{"more descriptors than a packet takes", 10, PacketFDs + 1},
		{"the most descriptors", 0, MaxFDs},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			body := bytes.Repeat([]byte("0123456"), c.body/7+1)[:c.body]
			fds := open(t, c.fds)
			sent := make(chan error, 1)
			go func() { sent <- a.Send(Message{Type: TypeLaunch, Request: 7, Body: body, FDs: fds}) }()
			m, err := b.Receive()
			if err != nil {
				t.Fatal(err)
			}
			defer linux.CloseAll(m.FDs...)
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if m.Type != TypeLaunch || m.Request != 7 || !bytes.Equal(m.Body, body) || len(m.FDs) != c.fds {
				t.Errorf("received %v %v, %d bytes, %d descriptors", m.Type, m.Request, len(m.Body), len(m.FDs))
			}
		})
	}
}

func TestWhatIsTooLongIsNotSent(t *testing.T) {
	a, _ := pair(t)
	if err := a.Send(Message{Body: make([]byte, MaxMessage+1)}); err == nil {
		t.Error("a body over the bound was sent")
	}
	if err := a.Send(Message{FDs: make([]*linux.FD, MaxFDs+1)}); err == nil {
		t.Error("more descriptors than the bound were sent")
	}
}

func TestABadPacketEndsTheConnection(t *testing.T) {
	more := header{Type: TypeLaunch, Request: 1, More: true}
	for _, c := range []struct {
		name    string
		packets [][]byte
		want    string
	}{
		{"a short header", [][]byte{{1, 0, 0}}, "whole header"},
		{"another major version", [][]byte{append([]byte{Major + 1}, make([]byte, 15)...)}, "version 2.0"},
		{"another message in the middle", [][]byte{more.encode([]byte("x")), header{Type: TypeSignal, Request: 2}.encode(nil)}, "in its middle"},
		{"nothing, with more to come", [][]byte{more.encode(nil)}, "empty packet"},
		{"a message without end", slicesRepeat(more.encode(make([]byte, 30000)), 10), "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, y, err := linux.PacketPair()
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			conn := NewConn(y)
			defer conn.Close()
			go func() {
				for _, p := range c.packets {
					x.Send(p, nil)
				}
			}()
			if _, err := conn.Receive(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func slicesRepeat(b []byte, n int) (all [][]byte) {
	for range n {
		all = append(all, b)
	}
	return all
}

func TestTheOtherEndClosing(t *testing.T) {
	a, b := pair(t)
	a.Close()
	if _, err := b.Receive(); err != io.EOF {
		t.Errorf("receive: %v, want io.EOF", err)
	}
	if err := b.Send(Message{}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("send: %v, want EPIPE", err)
	}
}

func TestRequestsAndRepliesKeepTheirFields(t *testing.T) {
	request := &Request{ID: "a/b", After: "x", Base: "0.log", Signal: syscall.SIGTERM, Subscribe: true}
	if got, err := DecodeRequest(request.Encode()); err != nil || !reflect.DeepEqual(got, request) {
		t.Errorf("request %+v, %v", got, err)
	}
	for _, want := range []*Reply{
		{},
		{Launched: Launched{PID: 5, PidfdInode: 6, Started: when}},
		{Processes: []Process{{ID: "a", Kind: Pause, PID: 3, PidfdInode: 9, Started: when}, {ID: "c", Kind: Container, Exit: exit()}}, More: true},
		{Names: []string{"net", "ipc"}},
		{Err: &LaunchError{Op: -1, Errno: syscall.EACCES, Err: "no"}},
		{Err: &LaunchError{Op: 17, Err: "yes"}},
	} {
		if got, err := DecodeReply(want.Encode()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("reply %+v, %v, want %+v", got, err, want)
		}
	}
	got, err := DecodeReply((&Reply{Err: errs.New(errs.NotFound, "signal x: no process")}).Encode())
	if err != nil || !errs.Is(got.Err, errs.NotFound) || got.Err.Error() != "signal x: no process" {
		t.Errorf("error reply %v, %v", got.Err, err)
	}
	if !errors.Is(&LaunchError{Errno: syscall.EACCES}, syscall.EACCES) {
		t.Error("a launch error's errno cannot be asked for")
	}
}

func TestALaunchKeepsItsFields(t *testing.T) {
	fds := open(t, 3)
	want := &Launch{
		ID: "id", Kind: Exec, CloneFlags: 1 << 29, Stdin: FIFO, Stdout: Given, Stderr: Null, StdioUID: 1000, StdioGID: 1 << 31,
		Log: &Log{Base: "0.log", MaxLine: -1}, FDs: []PassedFD{{Stage, fds[0]}, {Program, fds[1]}, {LogDir, fds[2]}},
	}
	got, err := DecodeLaunch(want.Encode(), fds)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("launch %+v, %v", got, err)
	}
	if _, err := DecodeLaunch(want.Encode(), fds[:2]); err == nil {
		t.Error("a role without a descriptor was taken")
	}
	newer := fields(want.Encode())
	newer.text(999, "from the future")
	if got, err := DecodeLaunch(newer, fds); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("with an unknown field: %+v, %v", got, err)
	}
}

func TestLaunchesThatCannotWorkAreRefused(t *testing.T) {
	fd := &linux.FD{}
	base := []PassedFD{{Stage, fd}, {Program, fd}}
	for _, c := range []struct {
		name   string
		launch Launch
		want   string // "" = fine
	}{
		{"a whole one", Launch{ID: "a", Kind: Pause, FDs: base}, ""},
		{"no id", Launch{Kind: Pause, FDs: base}, "id"},
		{"a way up as id", Launch{ID: "../x", Kind: Pause, FDs: base}, "id"},
		{"two slashes in the id", Launch{ID: "a/b/c", Kind: Pause, FDs: base}, "id"},
		{"a hidden file as id", Launch{ID: ".a", Kind: Pause, FDs: base}, "id"},
		{"an unknown kind", Launch{ID: "a", Kind: kinds, FDs: base}, "unknown kind"},
		{"no program", Launch{ID: "a", Kind: Pause, FDs: base[:1]}, "no program"},
		{"two stages", Launch{ID: "a", Kind: Pause, FDs: append(base[:2:2], PassedFD{Stage, fd})}, "two"},
		{"an unknown role", Launch{ID: "a", Kind: Pause, FDs: append(base[:2:2], PassedFD{roles, fd})}, "unknown role"},
		{"two children", Launch{ID: "a", Kind: Pause, FDs: append(base[:2:2], PassedFD{Child, fd}, PassedFD{Child, fd})}, ""},
		{"stdout given but not passed", Launch{ID: "a", Kind: Pause, Stdout: Given, FDs: base}, "stdout"},
		{"stdout passed but not given", Launch{ID: "a", Kind: Pause, FDs: append(base[:2:2], PassedFD{Stdout, fd})}, "stdout"},
		{"an unknown choice", Launch{ID: "a", Kind: Pause, Stdin: stdios, FDs: base}, "unknown choice"},
		{"a log without its directory", Launch{ID: "a", Kind: Pause, Log: &Log{Base: "x"}, FDs: base}, "no directory"},
		{"a log somewhere else", Launch{ID: "a", Kind: Pause, Log: &Log{Base: "../x"}, FDs: append(base[:2:2], PassedFD{LogDir, fd})}, "not a file name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.launch.Check()
			if c.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
}

// What decodes must encode to something that decodes to the same.
func FuzzDecode(f *testing.F) {
	f.Add((&Request{ID: "a", Signal: 9}).Encode())
	f.Add((&Reply{Processes: []Process{{ID: "a", Exit: exit()}}, Names: []string{"net"}}).Encode())
	f.Add((&Reply{Err: &LaunchError{Op: 3, Errno: 2, Err: "x"}}).Encode())
	f.Add((&Launch{ID: "a", Kind: 1, Log: &Log{Base: "b", MaxLine: -1}, FDs: []PassedFD{{Role: Stage}}}).Encode())
	f.Add(exit().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRequest(b); err == nil {
			again, err := DecodeRequest(r.Encode())
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("request %+v became %+v, %v", r, again, err)
			}
		}
		if r, err := DecodeReply(b); err == nil && r.Err == nil {
			again, err := DecodeReply(r.Encode())
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("reply %+v became %+v, %v", r, again, err)
			}
		}
		if e, err := DecodeExit(b); err == nil {
			again, err := DecodeExit(e.Encode())
			if err != nil || !reflect.DeepEqual(again, e) {
				t.Errorf("exit %+v became %+v, %v", e, again, err)
			}
		}
		for n := range 4 {
			fds := make([]*linux.FD, n)
			if l, err := DecodeLaunch(b, fds); err == nil {
				l.Check()
				again, err := DecodeLaunch(l.Encode(), fds)
				if err != nil || !reflect.DeepEqual(again, l) {
					t.Errorf("launch %+v became %+v, %v", l, again, err)
				}
			}
		}
		decodeHeader(b)
	})
}
