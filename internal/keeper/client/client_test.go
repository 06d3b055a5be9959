package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// fake is a keeper that says what a test wants. The real one is tested, through this client, by package keeper.
type fake struct {
	t    *testing.T
	conn *wire.Conn
	// answer is called for every message but Hello.
	answer func(m wire.Message)
	ended  chan struct{}
}

// dial connects a client to a fake keeper.
func dial(t *testing.T, onExit func(wire.Exit), answer func(f *fake, m wire.Message)) (*client.Client, *fake) {
	t.Helper()
	dir, err := os.MkdirTemp("", "client")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "sock")
	l, err := linux.ListenPackets(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := &fake{t: t, ended: make(chan struct{})}
	f.answer = func(m wire.Message) { answer(f, m) }
	accepted := make(chan error, 1)
	go func() {
		packets, err := l.Accept()
		if err == nil {
			f.conn = wire.NewConn(packets)
			go f.serve()
		}
		accepted <- err
	}()
	c, err := client.Dial(t.Context(), client.Options{Socket: socket, OnExit: onExit})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); f.conn.Close(); <-f.ended })
	return c, f
}

func (f *fake) serve() {
	defer close(f.ended)
	for {
		m, err := f.conn.Receive()
		if err != nil {
			return
		}
		if m.Type == wire.TypeHello {
			f.reply(m, &wire.Reply{})
		} else {
			f.answer(m)
		}
		linux.CloseAll(m.FDs...)
	}
}

func (f *fake) reply(to wire.Message, r *wire.Reply, fds ...*linux.FD) {
	if err := f.conn.Send(wire.Message{Type: wire.TypeReply, Request: to.Request, Body: r.Encode(), FDs: fds}); err != nil {
		f.t.Error(err)
	}
}

func null(t *testing.T) *linux.FD {
	t.Helper()
	f, err := linux.Open(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRepliesMayOvertakeEachOther(t *testing.T) {
	var held []wire.Message
	c, _ := dial(t, nil, func(f *fake, m wire.Message) {
		if held = append(held, m); len(held) < 10 {
			return
		}
		for i := range held {
			m := held[len(held)-1-i]
			r, err := wire.DecodeRequest(m.Body)
			if err != nil {
				t.Error(err)
			}
			f.reply(m, &wire.Reply{Err: errs.New(errs.NotFound, "signal %s: no", r.ID)})
		}
	})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			id := string(rune('a' + i))
			if err := c.Signal(t.Context(), id, 1); !errs.Is(err, errs.NotFound) || err.Error() != "signal "+id+": no" {
				t.Errorf("signal %s: %v", id, err)
			}
		})
	}
	wg.Wait()
}

func TestAReplyThatComesTooLateIsClosed(t *testing.T) { // the leak check sees its descriptor otherwise
	asked, reply := make(chan wire.Message, 1), null(t)
	c, f := dial(t, nil, func(f *fake, m wire.Message) {
		if m.Type == wire.TypePidfd {
			asked <- m
		} else {
			f.reply(m, &wire.Reply{})
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { _, err := c.Pidfd(ctx, "p"); result <- err }()
	m := <-asked
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	f.reply(m, &wire.Reply{}, reply)
	if err := c.Forget(t.Context(), "p"); err != nil { // the late reply has been received before this one
		t.Error(err)
	}
	if _, err := c.Pidfd(ctx, "p"); !errors.Is(err, context.Canceled) {
		t.Errorf("asked in a context that had ended: %v", err)
	}
}

func TestOddRepliesAreErrorsAndLeakNothing(t *testing.T) {
	fd := null(t)
	for _, c := range []struct {
		name   string
		answer func(f *fake, m wire.Message)
		want   string
	}{
		{"no descriptor", func(f *fake, m wire.Message) { f.reply(m, &wire.Reply{}) }, "0 descriptors, want 1"},
		{"two descriptors", func(f *fake, m wire.Message) { f.reply(m, &wire.Reply{}, fd, fd) }, "2 descriptors, want 1"},
		{"an error with a descriptor", func(f *fake, m wire.Message) { f.reply(m, &wire.Reply{Err: errors.New("no")}, fd) }, "no"},
		{"garbage", func(f *fake, m wire.Message) {
			f.conn.Send(wire.Message{Type: wire.TypeReply, Request: m.Request, Body: []byte{1}, FDs: []*linux.FD{fd}})
		}, "decode reply"},
		{"first an answer to nobody and news of the future", func(f *fake, m wire.Message) {
			f.conn.Send(wire.Message{Type: wire.TypeReply, Request: 1 << 40, FDs: []*linux.FD{fd}})
			f.conn.Send(wire.Message{Type: 999, FDs: []*linux.FD{fd}})
			f.reply(m, &wire.Reply{Err: errors.New("at last")})
		}, "at last"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, _ := dial(t, nil, c.answer)
			if _, err := client.Pidfd(t.Context(), "p"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	client, _ := dial(t, nil, func(f *fake, m wire.Message) { f.reply(m, &wire.Reply{Names: []string{"net"}}, fd, fd) })
	if _, err := client.Namespaces(t.Context(), "p"); err == nil {
		t.Error("a namespace without a name was taken")
	}
}

func TestEveryoneWaitingHearsThatTheKeeperIsGone(t *testing.T) {
	var told []wire.Exit
	exit := wire.Exit{ID: "p", Kind: wire.Container, Code: 3, Started: time.Unix(1, 2), Finished: time.Unix(3, 4)}
	var asked sync.WaitGroup
	asked.Add(2)
	c, f := dial(t, func(e wire.Exit) { told = append(told, e) }, func(f *fake, m wire.Message) { asked.Done() })
	results := make(chan error, 2)
	for range 2 {
		go func() { results <- c.Forget(t.Context(), "p") }()
	}
	asked.Wait()
	if err := f.conn.Send(wire.Message{Type: wire.TypeExited, Body: exit.Encode()}); err != nil {
		t.Fatal(err)
	}
	f.conn.Close()
	for range 2 {
		if err := <-results; !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "closed the connection") {
			t.Errorf("error %v", err)
		}
	}
	<-c.Done()
	if err := c.Forget(t.Context(), "p"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("afterwards: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if len(told) != 1 || told[0] != exit { // Close waits for OnExit
		t.Errorf("told %+v", told)
	}
}

func TestAnExitThatCannotBeReadEndsTheConnection(t *testing.T) {
	c, f := dial(t, func(e wire.Exit) { t.Errorf("told %+v", e) }, func(f *fake, m wire.Message) {})
	if err := f.conn.Send(wire.Message{Type: wire.TypeExited, Body: []byte{1}}); err != nil {
		t.Fatal(err)
	}
	<-c.Done() // better a new connection, which tells it again, than a lost exit
}

func TestLaunchesThatCannotWorkAreNotSent(t *testing.T) {
	c, _ := dial(t, nil, func(f *fake, m wire.Message) { t.Errorf("sent %v", m.Type) })
	if _, err := c.Launch(t.Context(), &wire.Launch{ID: "../x"}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("error %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	if _, err := client.Dial(t.Context(), client.Options{Socket: filepath.Join(t.TempDir(), "sock")}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("error %v", err)
	}
	long := client.StartOptions{Socket: "/" + strings.Repeat("x", 107), State: t.TempDir()}
	if err := client.Start(t.Context(), long); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("error %v", err)
	}
}
