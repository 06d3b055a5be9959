package stream_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"fermata/internal/errs"
	"fermata/internal/pod"
	"fermata/internal/stream"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// fake is the pods: what a session does is a test's.
type fake struct {
	exec    func(ctx context.Context, s *pod.Streams) (int, error)
	attach  func(ctx context.Context, s *pod.Streams) error
	forward func(ctx context.Context, port uint16, conn io.ReadWriteCloser) error
}

func (f *fake) Exec(ctx context.Context, _ string, _ []string, s *pod.Streams) (int, error) {
	return f.exec(ctx, s)
}
func (f *fake) Attach(ctx context.Context, _ string, s *pod.Streams) error { return f.attach(ctx, s) }
func (f *fake) PortForward(ctx context.Context, _ string, port uint16, conn io.ReadWriteCloser) error {
	return f.forward(ctx, port, conn)
}

func serve(t *testing.T, f *fake) *stream.Server {
	t.Helper()
	s, err := stream.Listen(f, slog.New(slog.DiscardHandler))
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dialSPDY upgrades as the kubelet does.
func dialSPDY(t *testing.T, address, protocol string) httpstream.Connection {
	t.Helper()
	u, err := url.Parse(address)
	check(t, err)
	conn, err := net.Dial("tcp", u.Host)
	check(t, err)
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n", u.Path, protocol)
	check(t, err)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	check(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %s", resp.Status)
	}
	c, err := spdy.NewClientConnection(&buffered{conn, r})
	check(t, err)
	return c
}

type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// channel opens a stream of a remote command.
func channel(t *testing.T, c httpstream.Connection, kind string) httpstream.Stream {
	t.Helper()
	s, err := c.CreateStream(http.Header{"streamType": {kind}})
	check(t, err)
	return s
}

func execRequest(tty bool) *runtimeapi.ExecRequest {
	return &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty}
}

// cat copies input to output, says "done" on the other one, and exits with 3.
func cat(_ context.Context, s *pod.Streams) (int, error) {
	if _, err := io.Copy(s.Stdout, s.Stdin); err != nil {
		return 0, err
	}
	_, err := io.WriteString(s.Stderr, "done")
	return 3, err
}

func wantExit(t *testing.T, status []byte, code string) {
	t.Helper()
	var s struct {
		Status, Reason string
		Details        struct {
			Causes []struct{ Reason, Message string }
		}
	}
	check(t, json.Unmarshal(status, &s))
	if s.Status != "Failure" || s.Reason != "NonZeroExitCode" || len(s.Details.Causes) != 1 || s.Details.Causes[0].Reason != "ExitCode" ||
		s.Details.Causes[0].Message != code {
		t.Errorf("status %s, want exit code %s", status, code)
	}
}

func TestExecOverSPDYHalfClosesAndTellsTheExitCode(t *testing.T) {
	s := serve(t, &fake{exec: cat})
	address, err := s.Exec(execRequest(false))
	check(t, err)
	c := dialSPDY(t, address, "v4.channel.k8s.io")
	defer c.Close()
	status, stdin, stdout, stderr := channel(t, c, "error"), channel(t, c, "stdin"), channel(t, c, "stdout"), channel(t, c, "stderr")
	_, err = io.WriteString(stdin, "hello")
	check(t, err)
	check(t, stdin.Close()) // half: the output still comes
	for name, want := range map[string]struct {
		from io.Reader
		text string
	}{"stdout": {stdout, "hello"}, "stderr": {stderr, "done"}} {
		if b, err := io.ReadAll(want.from); err != nil || string(b) != want.text {
			t.Errorf("%s %q (%v), want %q", name, b, err, want.text)
		}
	}
	b, err := io.ReadAll(status)
	check(t, err)
	wantExit(t, b, "3")
}

// dialWebSocket connects with one subprotocol.
func dialWebSocket(t *testing.T, address, protocol string) *websocket.Conn {
	t.Helper()
	config, err := websocket.NewConfig(strings.Replace(address, "http", "ws", 1), "http://x")
	check(t, err)
	config.Protocol = []string{protocol}
	ws, err := websocket.DialConfig(config)
	check(t, err)
	ws.PayloadType = websocket.BinaryFrame
	return ws
}

// receive reads messages until the connection's end and returns what came by channel.
func receive(ws *websocket.Conn) map[byte]*bytes.Buffer {
	got := map[byte]*bytes.Buffer{0: {}, 1: {}, 2: {}, 3: {}, 4: {}}
	for {
		var b []byte
		if websocket.Message.Receive(ws, &b) != nil {
			return got
		}
		if len(b) > 0 {
			got[b[0]].Write(b[1:])
		}
	}
}

func TestExecOverWebSocketV5ClosesStdinAlone(t *testing.T) {
	s := serve(t, &fake{exec: cat})
	address, err := s.Exec(execRequest(false))
	check(t, err)
	ws := dialWebSocket(t, address, "v5.channel.k8s.io")
	defer ws.Close()
	check(t, websocket.Message.Send(ws, append([]byte{0}, "hello"...)))
	check(t, websocket.Message.Send(ws, []byte{255, 0}))
	got := receive(ws)
	if got[1].String() != "hello" || got[2].String() != "done" {
		t.Errorf("stdout %q, stderr %q", got[1], got[2])
	}
	wantExit(t, got[3].Bytes(), "3")
}

func TestSizesReachATerminal(t *testing.T) {
	sizes := func(_ context.Context, s *pod.Streams) (int, error) {
		for range 2 {
			size := <-s.Resize
			fmt.Fprintf(s.Stdout, "%dx%d ", size.Width, size.Height)
		}
		return 0, nil
	}
	for _, protocol := range []string{"v4.channel.k8s.io", "v5.channel.k8s.io"} {
		t.Run("WebSocket "+protocol, func(t *testing.T) {
			s := serve(t, &fake{exec: sizes})
			address, err := s.Exec(execRequest(true))
			check(t, err)
			ws := dialWebSocket(t, address, protocol)
			defer ws.Close()
			for _, text := range []string{`{"Width":80,"Height":25}`, `{"Width":132,"Height":50}`} {
				check(t, websocket.Message.Send(ws, append([]byte{4}, text...)))
			}
			got := receive(ws)
			if got[1].String() != "80x25 132x50 " || got[3].String() != `{"status":"Success"}` && !strings.Contains(got[3].String(), `"Success"`) {
				t.Errorf("stdout %q, status %q", got[1], got[3])
			}
		})
	}
	t.Run("SPDY", func(t *testing.T) {
		s := serve(t, &fake{exec: sizes})
		address, err := s.Exec(execRequest(true))
		check(t, err)
		c := dialSPDY(t, address, "v4.channel.k8s.io")
		defer c.Close()
		channel(t, c, "error")
		channel(t, c, "stdin")
		stdout, resize := channel(t, c, "stdout"), channel(t, c, "resize")
		_, err = io.WriteString(resize, `{"Width":80,"Height":25}{"Width":132,"Height":50}`)
		check(t, err)
		if b, err := io.ReadAll(stdout); err != nil || string(b) != "80x25 132x50 " {
			t.Errorf("stdout %q (%v)", b, err)
		}
	})
}

func TestATokenIsGoodOnceAndForItsOwnKindOfSession(t *testing.T) {
	s := serve(t, &fake{exec: cat})
	status := func(address string) int {
		resp, err := http.Get(address)
		check(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	address, err := s.Exec(execRequest(false))
	check(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	if code := status(address); code == http.StatusNotFound {
		t.Error("a fresh token is not known") // it is refused for not being an upgrade
	}
	if code := status(address); code != http.StatusNotFound {
		t.Errorf("a spent token: %d", code)
	}
	address, err = s.Exec(execRequest(false))
	check(t, err)
	if code := status(strings.Replace(address, "/exec/", "/attach/", 1)); code != http.StatusNotFound {
		t.Errorf("another kind's token: %d", code)
	}
	if code := status(address); code != http.StatusNotFound {
		t.Errorf("a token that was used for the wrong thing is still good: %d", code)
	}
	for {
		_, err := s.Exec(execRequest(false))
		if err == nil {
			continue
		}
		if !errs.Is(err, errs.ResourceExhausted) {
			t.Error(err)
		}
		return
	}
}

// A command that reads no input must not hide that its client is gone, nor one whose output nobody takes. Nothing of any session may stay (leak.Main).
func TestClientsThatLeaveEndTheirSessions(t *testing.T) {
	const each = 100
	begun, ended := make(chan bool, 1), make(chan bool, 1)
	deaf := func(ctx context.Context, _ *pod.Streams) (int, error) {
		begun <- true
		defer func() { ended <- true }()
		<-ctx.Done()
		return 0, ctx.Err()
	}
	s := serve(t, &fake{
		exec:   deaf,
		attach: func(ctx context.Context, s *pod.Streams) error { _, err := deaf(ctx, s); return err },
		forward: func(ctx context.Context, _ uint16, _ io.ReadWriteCloser) error {
			_, err := deaf(ctx, nil)
			return err
		},
	})
	flood := bytes.Repeat([]byte("x"), 64<<10)
	sessions := map[string]func(t *testing.T) io.Closer{
		"exec over SPDY": func(t *testing.T) io.Closer {
			address, err := s.Exec(execRequest(true))
			check(t, err)
			c := dialSPDY(t, address, "v4.channel.k8s.io")
			channel(t, c, "error")
			stdin := channel(t, c, "stdin")
			channel(t, c, "stdout")
			channel(t, c, "resize")
			_, err = stdin.Write(flood)
			check(t, err)
			return c
		},
		"attach over WebSocket v4": func(t *testing.T) io.Closer {
			address, err := s.Attach(&runtimeapi.AttachRequest{ContainerId: "c", Stdin: true, Stdout: true, Stderr: true})
			check(t, err)
			ws := dialWebSocket(t, address, "v4.channel.k8s.io")
			check(t, websocket.Message.Send(ws, append([]byte{0}, flood...)))
			return ws
		},
		"exec over WebSocket v5": func(t *testing.T) io.Closer {
			address, err := s.Exec(execRequest(false))
			check(t, err)
			ws := dialWebSocket(t, address, "v5.channel.k8s.io")
			check(t, websocket.Message.Send(ws, append([]byte{0}, flood...)))
			return ws
		},
		"port-forward over SPDY": func(t *testing.T) io.Closer {
			address, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "p"})
			check(t, err)
			c := dialSPDY(t, address, "portforward.k8s.io")
			openForward(t, c, "80", "1")
			return c
		},
		"port-forward tunnelled": func(t *testing.T) io.Closer {
			address, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "p"})
			check(t, err)
			c, err := spdy.NewClientConnection(dialWebSocket(t, address, "SPDY/3.1+portforward.k8s.io"))
			check(t, err)
			openForward(t, c, "80", "1")
			return c
		},
	}
	for name, begin := range sessions {
		t.Run(name, func(t *testing.T) {
			for range each {
				c := begin(t)
				<-begun // a session that was left before may never begin
				c.Close()
				<-ended
			}
		})
	}
}

// Streams that are not of the session, or are opened twice, are refused; the others go on, and nothing is left of it when the client has left: leak
// checks that.
func TestStreamsThatNobodyAskedForAreRefused(t *testing.T) {
	s := serve(t, &fake{exec: cat})
	for range 20 {
		address, err := s.Exec(execRequest(false))
		check(t, err)
		c := dialSPDY(t, address, "v4.channel.k8s.io")
		open := map[string]httpstream.Stream{}
		for _, kind := range []string{"error", "error", "resize", "stdin", "nonsense", "stdout", "stdin", "stdout", "stderr", "stderr", ""} {
			stream, err := c.CreateStream(http.Header{"streamType": {kind}})
			if err != nil {
				continue // refused
			}
			if open[kind] == nil {
				open[kind] = stream
			}
		}
		_, err = io.WriteString(open["stdin"], "still here")
		check(t, err)
		check(t, open["stdin"].Close())
		go io.Copy(io.Discard, open["error"]) // unread it would be in the others' way
		go io.Copy(io.Discard, open["stderr"])
		if b, err := io.ReadAll(open["stdout"]); err != nil || string(b) != "still here" {
			t.Errorf("stdout %q (%v)", b, err)
		}
		c.Close() // the server may have done so before
	}
}

func TestAClientThatLeavesBeforeItsStreamsAreOpenIsGoneAtOnce(t *testing.T) {
	s := serve(t, &fake{exec: cat})
	address, err := s.Exec(execRequest(false))
	check(t, err)
	c := dialSPDY(t, address, "v4.channel.k8s.io")
	channel(t, c, "error")
	check(t, c.Close())
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), ").collect("); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) { // the library waits for thirty seconds
			t.Fatal("its session goes on")
		}
	}
}

// openForward opens the two streams of one forwarded connection.
func openForward(t *testing.T, c httpstream.Connection, port, request string) (data, failure httpstream.Stream) {
	t.Helper()
	failure, err := c.CreateStream(http.Header{"streamType": {"error"}, "port": {port}, "requestID": {request}})
	check(t, err)
	data, err = c.CreateStream(http.Header{"streamType": {"data"}, "port": {port}, "requestID": {request}})
	check(t, err)
	return data, failure
}

func TestAConnectionThatFailsDoesNotEndTheOthers(t *testing.T) { // kubernetes #74551
	f := &fake{forward: func(_ context.Context, port uint16, conn io.ReadWriteCloser) error {
		if port == 9 {
			io.ReadFull(conn, make([]byte, 1)) // the client has both streams
			return errors.New("connection refused")
		}
		_, err := io.Copy(conn, conn)
		return err
	}}
	for name, dial := range map[string]func(address string) httpstream.Connection{
		"SPDY": func(address string) httpstream.Connection { return dialSPDY(t, address, "portforward.k8s.io") },
		"tunnelled in WebSocket": func(address string) httpstream.Connection {
			c, err := spdy.NewClientConnection(dialWebSocket(t, address, "SPDY/3.1+portforward.k8s.io"))
			check(t, err)
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, f)
			address, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "p"})
			check(t, err)
			c := dial(address)
			defer c.Close()
			long, _ := openForward(t, c, "80", "long")
			for i := range 100 {
				bad, failure := openForward(t, c, "9", fmt.Sprint("bad", i))
				_, err := bad.Write([]byte{1})
				check(t, err)
				if b, _ := io.ReadAll(failure); !strings.Contains(string(b), "connection refused") {
					t.Fatalf("error stream: %q", b)
				}
				good, _ := openForward(t, c, "80", fmt.Sprint("good", i))
				_, err = io.WriteString(good, "ping")
				check(t, err)
				check(t, good.Close()) // half
				if b, err := io.ReadAll(good); err != nil || string(b) != "ping" {
					t.Fatalf("connection %d: %q (%v)", i, b, err)
				}
			}
			_, err = io.WriteString(long, "still")
			check(t, err)
			check(t, long.Close())
			if b, err := io.ReadAll(long); err != nil || string(b) != "still" {
				t.Errorf("the first connection: %q (%v)", b, err)
			}
		})
	}
}

func TestTheServersEndEndsSessions(t *testing.T) {
	began := make(chan struct{})
	s, err := stream.Listen(&fake{exec: func(ctx context.Context, _ *pod.Streams) (int, error) {
		close(began)
		<-ctx.Done()
		return 0, ctx.Err()
	}}, slog.New(slog.DiscardHandler))
	check(t, err)
	address, err := s.Exec(execRequest(false))
	check(t, err)
	ws := dialWebSocket(t, address, "v5.channel.k8s.io")
	defer ws.Close()
	<-began
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		check(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the server waits for its session")
	}
}
