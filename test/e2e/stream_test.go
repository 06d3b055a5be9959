package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// session is crictl on a test's daemon.
type session struct {
	*world
	program, config string
}

func newSession(t *testing.T) *session {
	t.Helper()
	w := start(t)
	s := &session{w, crictlPath(t), filepath.Join(w.Dir, "crictl.yaml")}
	check(t, os.WriteFile(s.config, nil, 0o644)) // empty: not the machine's
	return s
}

func (s *session) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--config", s.config, "--runtime-endpoint", s.Endpoint, "--image-endpoint", s.Endpoint}, args...)
	return exec.CommandContext(ctx, s.program, args...)
}

// container runs a busybox with a shell command; change may ask for more.
func (s *session) container(t *testing.T, shell string, change func(*runtimeapi.ContainerConfig)) (podID, id string) {
	t.Helper()
	config := cri.PodConfig("stream", "")
	podID, err := s.CRI.RunPod(t.Context(), config)
	check(t, err)
	c := cri.ContainerConfig("main", images.Busybox, "sh", "-c", shell)
	if change != nil {
		change(c)
	}
	id, err = s.CRI.Run(t.Context(), podID, config, c)
	check(t, err)
	return podID, id
}

func TestExecWithAClientsStreams(t *testing.T) {
	s := newSession(t)
	_, id := s.container(t, "exec sleep 1000", nil)
	for _, transport := range []string{"spdy", "websocket"} {
		t.Run("input, both outputs and the exit code over "+transport, func(t *testing.T) {
			cmd := s.command(t.Context(), "exec", "-i", "--transport", transport, id, "sh", "-c", "cat; echo complaint >&2; exit 7")
			var stdout, stderr bytes.Buffer
			sent := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(sent), &stdout, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !strings.Contains(stderr.String(), "exit code 7") && !strings.Contains(stderr.String(), "exit code: 7") && exit.ExitCode() != 7 {
				t.Errorf("%v, %q: want exit code 7", err, &stderr)
			}
			if stdout.String() != sent || !strings.Contains(stderr.String(), "complaint") {
				t.Errorf("%d bytes of %d came back, stderr %q", stdout.Len(), len(sent), &stderr)
			}
		})
		t.Run("a client that leaves over "+transport, func(t *testing.T) {
			marker := map[string]string{"spdy": "4711", "websocket": "4712"}[transport]
			cmd := s.command(t.Context(), "exec", "-i", "--transport", transport, id, "sh", "-c", "trap '' HUP; sleep "+marker+" & sleep "+marker)
			in, err := cmd.StdinPipe() // stays open
			check(t, err)
			defer in.Close()
			check(t, cmd.Start())
			count := func() int {
				out, err := s.CRI.Exec(t.Context(), id, "sh", "-c", "ps | grep -c '[s]leep "+marker+"' || true")
				check(t, err)
				var n int
				fmt.Sscan(out, &n)
				return n
			}
			eventually(t, "the command runs", func() (bool, string) { n := count(); return n >= 2, fmt.Sprint(n) })
			check(t, cmd.Process.Kill())
			cmd.Wait()
			eventually(t, "the command and what it started are gone", func() (bool, string) { n := count(); return n == 0, fmt.Sprint(n) })
		})
	}
}

func TestExecAndAttachAtATerminal(t *testing.T) {
	s := newSession(t)
	_, execIn := s.container(t, "exec sleep 1000", nil)
	t.Run("attach", func(t *testing.T) {
		config := cri.PodConfig("terminal", "")
		podID, err := s.CRI.RunPod(t.Context(), config)
		check(t, err)
		c := cri.ContainerConfig("main", images.Busybox, "sh")
		c.Stdin, c.Tty = true, true
		attachTo, err := s.CRI.Run(t.Context(), podID, config, c)
		check(t, err)
		s.atTerminal(t, "attach", "-it", attachTo)
		if st, err := s.CRI.WaitExited(t.Context(), attachTo); err != nil || st.GetExitCode() != 0 {
			t.Errorf("%v %v", st, err)
		}
	})
	t.Run("exec", func(t *testing.T) { s.atTerminal(t, "exec", "-it", execIn, "sh") })
}

// atTerminal talks to a shell as a person at a terminal does.
func (s *session) atTerminal(t *testing.T, args ...string) {
	p := sit(t, s.command(t.Context(), args...))
	p.say("\n") // a shell that was there before has shown its prompt to nobody
	p.expect("#")
	// The size is told once the session has begun: it may come a moment after the shell does.
	p.say("until stty size | grep -q '37 111'; do :; done; tty; test -t 0 && echo a-$((40+2))-b\n")
	p.expect("/dev/")
	p.expect("a-42-b")
	p.say("exit 0\n")
	check(t, p.cmd.Wait())
}

func TestAttachedClientsGetTheSame(t *testing.T) {
	s := newSession(t)
	_, id := s.container(t, "while read line; do echo got $line; echo also $line >&2; done; echo over", func(c *runtimeapi.ContainerConfig) {
		c.Stdin, c.StdinOnce = true, true
	})
	listener := s.command(t.Context(), "attach", id)
	var heard, said bytes.Buffer
	out, err := listener.StdoutPipe()
	check(t, err)
	check(t, listener.Start())
	speaker := s.command(t.Context(), "attach", "-i", id)
	speaker.Stdout = &said
	in, err := speaker.StdinPipe()
	check(t, err)
	check(t, speaker.Start())
	// The listener is attached once it hears something: what came before is not told.
	first := make([]byte, 4)
	done := make(chan error, 1)
	go func() { _, err := io.ReadFull(out, first); done <- err }()
	for attached := false; !attached; {
		_, err := io.WriteString(in, "hello\n")
		check(t, err)
		select {
		case err := <-done:
			check(t, err)
			attached = true
		case <-time.After(100 * time.Millisecond):
		}
	}
	_, err = io.WriteString(in, "last\n")
	check(t, err)
	check(t, in.Close()) // stdin_once: the container's end of file
	_, err = io.Copy(&heard, out)
	check(t, err)
	check(t, listener.Wait())
	check(t, speaker.Wait())
	for name, text := range map[string]string{"listener": heard.String(), "speaker": said.String()} {
		if !strings.HasSuffix(text, "got last\nover\n") {
			t.Errorf("the %s got %q", name, text)
		}
	}
	if st, err := s.CRI.WaitExited(t.Context(), id); err != nil || st.GetExitCode() != 0 {
		t.Errorf("%v %v", st, err)
	}
}

func TestPortForward(t *testing.T) {
	s := newSession(t)
	_, err := s.CRI.Pull(t.Context(), images.Nginx)
	check(t, err)
	podID, id := s.container(t, "", func(c *runtimeapi.ContainerConfig) { c.Image.Image, c.Command, c.Args = images.Nginx, nil, nil })
	s.awaitServer(t, id)
	for _, transport := range []string{"spdy", "websocket"} {
		t.Run(transport, func(t *testing.T) { s.forward(t, podID, transport) })
	}
}

// awaitServer waits until a container of nginx serves.
func (s *session) awaitServer(t *testing.T, id string) {
	t.Helper()
	eventually(t, "the server listens", func() (bool, string) {
		out, err := s.CRI.Exec(t.Context(), id, "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 80")
		return strings.HasPrefix(out, "HTTP/1"), fmt.Sprint(out, err)
	})
}

// forward talks to the server of TestPortForward many times in one session. A connection that fails is in package stream's tests: crictl ends the session
// for it by itself.
func (s *session) forward(t *testing.T, podID, transport string) {
	cmd := s.command(t.Context(), "port-forward", "--transport", transport, podID, "0:80")
	out, err := cmd.StdoutPipe()
	check(t, err)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	check(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	buf, seen, port := make([]byte, 4096), "", ""
	for port == "" {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("%v: %q %q", err, seen, &complaints)
		}
		seen += string(buf[:n])
		for line := range strings.Lines(seen) { // Forwarding from 127.0.0.1:40123 -> 80
			if f := strings.Fields(line); len(f) == 5 && strings.HasPrefix(f[2], "127.0.0.1:") && strings.HasSuffix(line, "\n") {
				port = f[2]
			}
		}
	}
	for range 50 {
		conn, err := net.Dial("tcp", port)
		check(t, err)
		_, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		check(t, err)
		check(t, conn.(*net.TCPConn).CloseWrite()) // half: the answer still comes
		if b, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(b), "HTTP/1.0 200") && !strings.HasPrefix(string(b), "HTTP/1.1 200") {
			t.Fatalf("answer %q (%v); crictl: %q", b, err, &complaints)
		}
		conn.Close()
	}
}

// What a container writes last, and its end, come from two sides: the keeper's copy of its output and the exit.
func TestAContainersLastWordsReachWhoIsAttached(t *testing.T) {
	s := newSession(t)
	config := cri.PodConfig("last", "")
	podID, err := s.CRI.RunPod(t.Context(), config)
	check(t, err)
	for i := range 20 {
		c := cri.ContainerConfig(fmt.Sprint("main", i), images.Busybox, "sh", "-c", "read line; head -c 300000 /dev/zero; echo over; exit 3")
		c.Stdin = true
		id, err := s.CRI.Run(t.Context(), podID, config, c)
		check(t, err)
		cmd := s.command(t.Context(), "attach", "-i", id)
		in, err := cmd.StdinPipe()
		check(t, err)
		var said bytes.Buffer
		cmd.Stdout = &said
		check(t, cmd.Start())
		_, err = io.WriteString(in, "go\n") // it takes it when it is attached
		check(t, err)
		err = cmd.Wait()
		in.Close()
		if err != nil || said.Len() != 300000+len("over\n") || !strings.HasSuffix(said.String(), "over\n") {
			t.Fatalf("time %d: %d bytes (%v)", i, said.Len(), err)
		}
	}
}

// Sessions of fermata.v1 that their client leaves leave nothing, no process in the container either (cancel_test.go has CRI's).
func TestLeftSessionsOfTheCommandLineLeaveNothing(t *testing.T) {
	s := newSession(t)
	if s.Kind != "fermata" {
		t.Skip("containerd has no such sessions")
	}
	podID, id := s.container(t, "exec sleep 1000", nil)
	own := s.own(t)
	for range 25 {
		own(podID, id)
	}
	eventually(t, "only the container's own process is left", func() (bool, string) {
		out, err := s.CRI.Exec(t.Context(), id, "sh", "-c", "ls -d /proc/[0-9]*")
		check(t, err)
		return strings.Count(out, "\n") <= 3, out // sleep, this shell, ls
	})
}

// own begins the sessions of fermata.v1 and leaves them.
func (s *session) own(t *testing.T) func(podID, id string) {
	conn, err := grpc.NewClient(s.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	client := fermatav1.NewFermataClient(conn)
	return func(podID, id string) {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		for _, tty := range []bool{false, true} {
			exec, err := client.Exec(ctx)
			check(t, err)
			start := &fermatav1.ExecStart{ContainerId: id, Command: []string{"sh", "-c", "echo begun; exec sleep 4713"}, Stdin: true, Tty: tty}
			check(t, exec.Send(&fermatav1.ExecRequest{Message: &fermatav1.ExecRequest_Start{Start: start}}))
			_, err = exec.Recv()
			check(t, err)
		}
		attach, err := client.Attach(ctx)
		check(t, err)
		choice := &fermatav1.AttachStart{ContainerId: id, Stdin: true}
		check(t, attach.Send(&fermatav1.AttachRequest{Message: &fermatav1.AttachRequest_Start{Start: choice}}))
		_, err = attach.Recv()
		check(t, err)
		forward, err := client.PortForward(ctx)
		check(t, err)
		port := &fermatav1.PortForwardStart{PodId: podID, Port: 9}
		check(t, forward.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Start{Start: port}}))
	}
}

// Nobody's stopped terminal stops a container: who does not take its output is detached, and told so.
func TestASlowAttachedClientIsDetached(t *testing.T) {
	s := newSession(t)
	_, id := s.container(t, "read line; head -c 20000000 /dev/zero; exec sleep 1000", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	r, err := s.CRI.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	check(t, err)
	config, err := websocket.NewConfig(strings.Replace(r.GetUrl(), "http", "ws", 1), "http://x")
	check(t, err)
	config.Protocol = []string{"v5.channel.k8s.io"}
	ws, err := websocket.DialConfig(config)
	check(t, err)
	defer ws.Close()
	ws.PayloadType = websocket.BinaryFrame
	check(t, websocket.Message.Send(ws, []byte("\x00go\n")))
	eventually(t, "the container goes on though nobody reads", func() (bool, string) {
		out, err := s.CRI.Exec(t.Context(), id, "cat", "/proc/1/cmdline")
		return strings.HasPrefix(out, "sleep"), fmt.Sprint(out, err)
	})
	check(t, ws.SetDeadline(time.Now().Add(30*time.Second)))
	for status := ""; status == ""; {
		var b []byte
		if err := websocket.Message.Receive(ws, &b); err != nil {
			t.Fatalf("the session ended without a word: %v", err)
		}
		if len(b) > 1 && b[0] == 3 {
			if status = string(b); !strings.Contains(status, "faster than the client took it") {
				t.Errorf("status %s", status)
			}
		}
	}
}
