package keeper_test

import (
	"io"
	"os"
	"testing"

	"fermata/internal/keeper"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// Whatever a daemon sends, the keeper answers it or closes that connection, and serves the next.
func FuzzRequests(f *testing.F) {
	null, err := linux.Open(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close() })
	w := start(f, keeper.Options{Warn: func(error) {}})
	fds := []wire.PassedFD{{Role: wire.Stage, FD: null}, {Role: wire.Program, FD: null}, {Role: wire.LogDir, FD: null}, {Role: wire.Console, FD: null}}
	f.Add(uint16(wire.TypeLaunch), (&wire.Launch{ID: "a", Kind: wire.Pause, FDs: fds[:2]}).Encode(), uint8(2))
	f.Add(uint16(wire.TypeLaunch), (&wire.Launch{ID: "a", Kind: wire.Exec, Stdin: wire.FIFO, Stdout: wire.FIFO, Log: &wire.Log{Base: "x"}, FDs: fds}).Encode(), uint8(4))
	f.Add(uint16(wire.TypeLaunch), []byte{1, 2, 3}, uint8(0))
	for t := wire.TypeHello; t < wire.TypeShutdown; t++ {
		f.Add(uint16(t), (&wire.Request{ID: "a", After: "b", Base: "c", Signal: 15, Subscribe: true}).Encode(), uint8(1))
	}
	f.Add(uint16(1<<15), []byte{}, uint8(3))
	f.Fuzz(func(t *testing.T, kind uint16, body []byte, n uint8) {
		if wire.Type(kind) == wire.TypeShutdown || len(body) > wire.MaxMessage {
			return
		}
		packets, err := linux.DialPackets(w.o.Socket)
		if err != nil {
			t.Fatal(err)
		}
		conn := wire.NewConn(packets)
		defer conn.Close()
		given := make([]*linux.FD, n%100)
		for i := range given {
			given[i] = null
		}
		if err := conn.Send(wire.Message{Type: wire.Type(kind), Request: 7, Body: body, FDs: given}); err != nil {
			t.Fatal(err)
		}
		if err := conn.Send(wire.Message{Type: wire.TypeProcesses, Request: 8}); err != nil {
			t.Fatal(err)
		}
		for answered := 0; answered < 2; { // a launch may be answered after what was asked later
			m, err := conn.Receive()
			if err == io.EOF {
				t.Fatal("the keeper closed the connection")
			}
			if err != nil {
				t.Fatal(err)
			}
			linux.CloseAll(m.FDs...)
			if m.Type == wire.TypeReply {
				if _, err := wire.DecodeReply(m.Body); err != nil || m.Request != 7 && m.Request != 8 {
					t.Errorf("reply to %d: %v", m.Request, err)
				}
				answered++
			}
		}
	})
}
