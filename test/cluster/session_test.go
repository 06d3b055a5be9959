package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
	"fermata/internal/testkit/images"
)

// session is a kubectl that is talked with.
type session struct {
	*exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	error bytes.Buffer
}

// session starts kubectl. It is ended with the test.
func (w *world) session(t *testing.T, args ...string) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd, err := w.Command(ctx, args...)
	check(t, err)
	s := &session{Cmd: cmd}
	s.in, err = cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	s.out, cmd.Stderr = bufio.NewReader(out), &s.error
	check(t, cmd.Start())
	return s
}

// line is the next line of output.
func (s *session) line(t *testing.T) string {
	t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v %s", s.Args[1:], err, &s.error)
	}
	return strings.TrimSuffix(line, "\n")
}

// end waits for kubectl's end by itself and returns what it still said.
func (s *session) end(t *testing.T) string {
	t.Helper()
	rest, err := io.ReadAll(s.out)
	check(t, err)
	if err := s.Wait(); err != nil {
		t.Errorf("%v: %v %s", s.Args[1:], err, &s.error)
	}
	return string(rest)
}

func (w *world) logs(t *testing.T) {
	w.apply(t, pod("talker", "b", `
  - name: main
    image: BUSYBOX
    command: [sh, -c, "echo before; until [ -e /go ]; do sleep 0.05; done; seq 1 2000; echo oops >&2"]
  restartPolicy: Never
`))
	w.ready(t, "pod/talker")
	follow := w.session(t, "logs", "-f", "talker")
	if got := follow.line(t); got != "before" {
		t.Errorf("the log begins with %q", got)
	}
	w.kubectl(t, "exec", "talker", "--", "touch", "/go")
	got := strings.Fields(follow.end(t))
	if len(got) != 2001 || got[0] != "1" || got[1999] != "2000" || got[2000] != "oops" {
		t.Errorf("then %d words follow: %.200q", len(got), got)
	}
	w.kubectl(t, "delete", "pod", "talker", "--wait=false")
}

// terminal is a person's: a pseudo-terminal that kubectl is the foreground of.
func (w *world) terminal(t *testing.T) {
	devpts, err := linux.NewMount("devpts", 0, linux.Option{Key: "newinstance"}, linux.Option{Key: "ptmxmode", Value: "0666"})
	check(t, err)
	defer devpts.Close()
	master, slave, err := devpts.NewTerminal()
	check(t, err)
	defer master.Close()
	check(t, master.SetTerminalSize(33, 77))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, err := w.Command(ctx, "exec", "-it", "right", "--", "sh")
	check(t, err)
	tty := slave.File()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	check(t, cmd.Start())
	tty.Close()
	screen := &screen{from: master}
	enter := func(line string) {
		_, err := master.Write([]byte(line + "\r"))
		check(t, err)
	}
	screen.until(t, "# ")
	enter("stty size")
	screen.until(t, "33 77\r\n")
	check(t, master.SetTerminalSize(40, 100))
	enter("until stty size | grep '40 100'; do sleep 0.05; done; tty")
	screen.until(t, "40 100\r\n", "/dev/pts/")
	enter("sh -c 'echo asleep; exec sleep 1000'")
	screen.until(t, "asleep\r\n")    // what is typed ahead, the shell's line editor takes for text
	_, err = master.Write([]byte{3}) // control-C ends the sleep, not the shell
	check(t, err)
	enter("echo $((6 * 7)); exit 9")
	screen.until(t, "42\r\n")
	io.Copy(io.Discard, master) // until kubectl has let go of the other end
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("kubectl ended with %v; the screen shows %q", err, screen.shown)
	}
}

// screen is what a terminal showed.
type screen struct {
	from  io.Reader
	shown string
}

// until reads on until the texts have come, in order.
func (s *screen) until(t *testing.T, texts ...string) {
	t.Helper()
	buffer := make([]byte, 4096)
	for _, text := range texts {
		for !strings.Contains(s.shown, text) {
			n, err := s.from.Read(buffer)
			if err != nil {
				t.Fatalf("%v, waiting for %q after %q", err, text, s.shown)
			}
			s.shown += string(buffer[:n])
		}
		_, s.shown, _ = strings.Cut(s.shown, text)
	}
}

func (w *world) attach(t *testing.T) {
	w.apply(t, pod("echo", "b", `
  - name: main
    image: BUSYBOX
    command: [sh, -c, "while read line; do echo you said $line; done; echo bye"]
    stdin: true
    stdinOnce: true
  restartPolicy: Never
`))
	w.ready(t, "pod/echo")
	s := w.session(t, "attach", "-i", "echo")
	for _, word := range []string{"one", "two"} {
		_, err := io.WriteString(s.in, word+"\n")
		check(t, err)
		if got := s.line(t); got != "you said "+word {
			t.Errorf("attached, one reads %q", got)
		}
	}
	check(t, s.in.Close())
	if got := s.end(t); !strings.Contains(got, "bye") {
		t.Errorf("after the end of input one reads %q", got)
	}
	w.kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/echo", "--timeout=60s")
	w.kubectl(t, "delete", "pod", "echo")
}

func (w *world) portForward(t *testing.T) {
	for _, p := range []podOf{w.webs(t)[0], w.webs(t)[19]} {
		s := w.session(t, "port-forward", "pod/"+p.name, ":80", "--address", "127.0.0.1")
		port := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(s.line(t))
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for range 10 {
			answer, err := client.Get("http://" + port + "/")
			check(t, err)
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			check(t, err)
			if !strings.Contains(string(body), "It works!") {
				t.Errorf("pod %s answers %q", p.name, body)
			}
		}
		check(t, s.Process.Signal(os.Interrupt))
		s.Wait()
	}
}

func (w *world) copyFiles(t *testing.T) {
	dir := t.TempDir()
	data := make([]byte, 8<<20)
	rand.Read(data)
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	check(t, os.WriteFile(there, data, 0o644))
	w.kubectl(t, "cp", there, "right:/tmp/file")
	w.kubectl(t, "cp", "right:/tmp/file", back)
	got, err := os.ReadFile(back)
	check(t, err)
	if !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, or other ones", len(got), len(data))
	}
}

// spdy repeats sessions as kubectl makes them with an API server that has no WebSockets.
func (w *world) spdy(t *testing.T) {
	w.Environment = []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"}
	defer func() { w.Environment = nil }()
	t.Run("exec", w.terminal)
	t.Run("attach", w.attach)
	t.Run("port-forward", w.portForward)
	t.Run("cp", w.copyFiles)
}

func (w *world) debug(t *testing.T) {
	w.kubectl(t, "debug", "left", "--image", images.Busybox, "--target=main", "-c", "look", "--", "sh", "-c", "cat /proc/1/cmdline; echo; ls /proc/1/root/etc")
	w.kubectl(t, "wait", "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}=0", "pod/left", "--timeout=60s")
	if got := w.kubectl(t, "logs", "left", "-c", "look"); !strings.Contains(got, "trap") || !strings.Contains(got, "passwd") {
		t.Errorf("the debugging container sees %q", got)
	}
	if got := w.kubectl(t, "get", "pod", "left", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); got != "0" {
		t.Errorf("its target was started again %s times", got)
	}
}
