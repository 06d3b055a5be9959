package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/config"
	"fermata/internal/cri"
	"fermata/internal/errs"
	"fermata/internal/pod"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// fake is the pods: what a session does is a test's.
type fake struct {
	session    func(ctx context.Context, s *pod.Streams) (int, error)
	tty, stdin bool
	forward    func(ctx context.Context, conn io.ReadWriteCloser) error
}

func (f *fake) Exec(ctx context.Context, _ string, _ []string, s *pod.Streams) (int, error) {
	return f.session(ctx, s)
}
func (f *fake) Attach(ctx context.Context, _ string, s *pod.Streams) error {
	_, err := f.session(ctx, s)
	return err
}
func (f *fake) Takes(string) (tty, stdin bool, err error) { return f.tty, f.stdin, nil }
func (f *fake) PortForward(ctx context.Context, _ string, _ uint16, conn io.ReadWriteCloser) error {
	return f.forward(ctx, conn)
}

// serve serves a fake on a socket of the test's own.
func serve(t *testing.T, f *fake) (*Service, fermatav1.FermataClient) {
	t.Helper()
	l, err := net.Listen("unix", "@fermata-"+strings.ReplaceAll(t.Name(), "/", "-"))
	check(t, err)
	server := grpc.NewServer(cri.Interceptors(slog.New(slog.DiscardHandler))...)
	s := Register(server, Options{Version: "1", Config: &config.Config{}})
	s.runtime = f
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.Addr().String())
		}))
	check(t, err)
	t.Cleanup(func() {
		check(t, conn.Close())
		server.Stop()
		check(t, <-served)
	})
	return s, fermatav1.NewFermataClient(conn)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func asInput(in *fermatav1.Input) *fermatav1.ExecRequest {
	return &fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Input{Input: in}}
}

func data(text string) *fermatav1.Input {
	return &fermatav1.Input{Input: &fermatav1.Input_Data{Data: []byte(text)}}
}

func begin(t *testing.T, client fermatav1.FermataClient, start *fermatav1.ExecStart) fermatav1.Fermata_ExecClient {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := client.Exec(ctx)
	check(t, err)
	start.ContainerId = "c"
	check(t, stream.Send(&fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Start{Start: start}}))
	return stream
}

// receive reads a command's session to its end: "out:err:code".
func receive(stream fermatav1.Fermata_ExecClient) (string, error) {
	var out, complaints strings.Builder
	code := "none"
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out.String() + ":" + complaints.String() + ":" + code, nil
		}
		if err != nil {
			return "", err
		}
		out.Write(m.GetStdout())
		complaints.Write(m.GetStderr())
		if e, ok := m.GetMessage().(*fermatav1.ExecResponse_ExitCode); ok {
			code = fmt.Sprint(e.ExitCode)
		}
	}
}

func TestStreamsOfACommand(t *testing.T) {
	cat := func(_ context.Context, s *pod.Streams) (int, error) {
		if s.Stdin != nil {
			if _, err := io.Copy(s.Stdout, s.Stdin); err != nil {
				return 0, err
			}
		}
		if s.Stderr != nil {
			io.WriteString(s.Stderr, "complaint")
		}
		fmt.Fprintf(s.Stdout, "|%v %dx%d", s.TTY, s.Size.Width, s.Size.Height)
		return 3, nil
	}
	_, client := serve(t, &fake{session: cat})
	large := strings.Repeat("0123456789abcdef", 1<<16)
	for _, c := range []struct {
		name  string
		start *fermatav1.ExecStart
		sent  []*fermatav1.Input
		want  string
	}{
		{"none", &fermatav1.ExecStart{}, nil, "|false 0x0:complaint:3"},
		{"input, and its end by a message", &fermatav1.ExecStart{Stdin: true},
			[]*fermatav1.Input{data("one "), data("two"), {Input: &fermatav1.Input_End{End: true}}}, "one two|false 0x0:complaint:3"},
		{"input, and its end by the client's last word", &fermatav1.ExecStart{Stdin: true}, []*fermatav1.Input{data(large)}, large + "|false 0x0:complaint:3"},
		{"a terminal of a size", &fermatav1.ExecStart{Tty: true, Size: &fermatav1.TerminalSize{Columns: 111, Rows: 37}}, nil, "|true 111x37::3"},
		{"a terminal of a size that cannot be", &fermatav1.ExecStart{Tty: true, Size: &fermatav1.TerminalSize{Columns: 1 << 16, Rows: 1}}, nil, "|true 0x0::3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream := begin(t, client, c.start)
			for _, m := range c.sent {
				check(t, stream.Send(asInput(m)))
			}
			check(t, stream.CloseSend())
			if got, err := receive(stream); err != nil || got != c.want {
				t.Errorf("%.200q (%v), want %.200q", got, err, c.want)
			}
		})
	}
}

func TestTheNewestSizeIsTold(t *testing.T) {
	asked := make(chan struct{})
	_, client := serve(t, &fake{session: func(_ context.Context, s *pod.Streams) (int, error) {
		<-asked
		io.ReadFull(s.Stdin, make([]byte, 1)) // sent after all sizes
		size := <-s.Resize
		return int(size.Width), nil
	}})
	stream := begin(t, client, &fermatav1.ExecStart{Tty: true, Stdin: true})
	for _, width := range []uint32{1, 2, 70000, 3} {
		check(t, stream.Send(asInput(&fermatav1.Input{Input: &fermatav1.Input_Size{Size: &fermatav1.TerminalSize{Columns: width, Rows: 1}}})))
	}
	check(t, stream.Send(asInput(data("x"))))
	close(asked)
	if got, err := receive(stream); err != nil || got != "::3" {
		t.Errorf("%q (%v)", got, err)
	}
}

func TestSessionsThatCannotBe(t *testing.T) {
	_, client := serve(t, &fake{session: func(context.Context, *pod.Streams) (int, error) {
		return 0, errs.New(errs.FailedPrecondition, "it is exited")
	}})
	first := func(send func(stream fermatav1.Fermata_ExecClient) error) error {
		stream, err := client.Exec(t.Context())
		check(t, err)
		check(t, send(stream))
		check(t, stream.CloseSend())
		_, err = stream.Recv()
		return err
	}
	for name, c := range map[string]struct {
		err  error
		code codes.Code
	}{
		"no first message": {first(func(fermatav1.Fermata_ExecClient) error { return nil }), codes.InvalidArgument},
		"a first message that is none": {first(func(s fermatav1.Fermata_ExecClient) error {
			return s.Send(asInput(data("x")))
		}), codes.InvalidArgument},
		"a container that has ended": {first(func(s fermatav1.Fermata_ExecClient) error {
			return s.Send(&fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Start{Start: &fermatav1.ExecStart{ContainerId: "c"}}})
		}), codes.FailedPrecondition},
	} {
		if status.Code(c.err) != c.code {
			t.Errorf("%s: %v, want %v", name, c.err, c.code)
		}
	}
	for _, start := range []*fermatav1.PortForwardStart{nil, {PodId: "p"}, {PodId: "p", Port: 65536}} {
		stream, err := client.PortForward(t.Context())
		check(t, err)
		check(t, stream.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Start{Start: start}}))
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("port-forward %v: %v", start, err)
		}
	}
}

func TestAttachSaysWhatTheContainerHas(t *testing.T) {
	f := &fake{session: func(_ context.Context, s *pod.Streams) (int, error) {
		_, err := fmt.Fprintf(s.Stdout, "tty %v stdin %v stderr %v", s.TTY, s.Stdin != nil, s.Stderr != nil)
		return 0, err
	}}
	_, client := serve(t, f)
	for _, c := range []struct {
		tty, stdin, wanted bool
		says               string
	}{
		{true, true, true, "tty true stdin true stderr false"},
		{false, true, false, "tty false stdin false stderr true"},
		{false, false, true, "tty false stdin false stderr true"},
	} {
		f.tty, f.stdin = c.tty, c.stdin
		stream, err := client.Attach(t.Context())
		check(t, err)
		start := &fermatav1.AttachStart{ContainerId: "c", Stdin: c.wanted}
		check(t, stream.Send(&fermatav1.AttachRequest{Message: &fermatav1.AttachRequest_Start{Start: start}}))
		m, err := stream.Recv()
		check(t, err)
		if a := m.GetAttached(); a.GetTty() != c.tty || a.GetStdin() != (c.stdin && c.wanted) {
			t.Errorf("%v, want %+v", a, c)
		}
		m, err = stream.Recv()
		check(t, err)
		if string(m.GetStdout()) != c.says {
			t.Errorf("%q, want %q", m.GetStdout(), c.says)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	}
}

func TestASessionEndsWithItsClientAndWithTheService(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	hang := func(ctx context.Context, s *pod.Streams) (int, error) { // reads no input
		begun <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return 0, ctx.Err()
	}
	s, client := serve(t, &fake{session: hang, stdin: true, forward: func(ctx context.Context, _ io.ReadWriteCloser) error { _, err := hang(ctx, nil); return err }})
	flood := strings.Repeat("x", 1<<20)
	for range 20 {
		ctx, leave := context.WithCancel(t.Context())
		stream, err := client.Exec(ctx)
		check(t, err)
		start := &fermatav1.ExecStart{ContainerId: "c", Stdin: true}
		check(t, stream.Send(&fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Start{Start: start}}))
		go stream.Send(asInput(data(flood)))
		<-begun
		leave()
		<-ended
	}
	stream := begin(t, client, &fermatav1.ExecStart{Stdin: true})
	<-begun
	forward, err := client.PortForward(t.Context())
	check(t, err)
	port := &fermatav1.PortForwardStart{PodId: "p", Port: 80}
	check(t, forward.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Start{Start: port}}))
	<-begun
	s.End()
	<-ended
	<-ended
	for name, receive := range map[string]func() error{
		"exec":         func() error { _, err := stream.Recv(); return err },
		"port-forward": func() error { _, err := forward.Recv(); return err },
	} {
		if err := receive(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the daemon is ending") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAForwardedConnectionEndsOneSideAtATime(t *testing.T) {
	_, client := serve(t, &fake{forward: func(_ context.Context, conn io.ReadWriteCloser) error {
		if _, err := io.WriteString(conn, "said first"); err != nil {
			return err
		}
		if err := errors.Join(conn.Close(), conn.Close()); err != nil { // twice is once
			return err
		}
		got, err := io.ReadAll(conn)
		if string(got) != strings.Repeat("and then heard", 10_000) {
			return fmt.Errorf("heard %d bytes (%w)", len(got), err)
		}
		return err
	}})
	stream, err := client.PortForward(t.Context())
	check(t, err)
	check(t, stream.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Start{Start: &fermatav1.PortForwardStart{PodId: "p", Port: 80}}}))
	m, err := stream.Recv()
	check(t, err)
	if string(m.GetData()) != "said first" {
		t.Errorf("%v", m)
	}
	if m, err = stream.Recv(); err != nil || !m.GetEnd() {
		t.Errorf("%v %v, want the server's end", m, err)
	}
	for range 10_000 {
		check(t, stream.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Data{Data: []byte("and then heard")}}))
	}
	check(t, stream.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_End{End: true}}))
	if m, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("%v %v, want the end", m, err)
	}
}
