package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/images"
)

// commandLine is fermata's own command line on a test's daemon, with a pod that runs.
type commandLine struct {
	*session
	pod, id string
}

func newCommandLine(t *testing.T, command string, change func(*runtimeapi.ContainerConfig)) *commandLine {
	t.Helper()
	s := newSession(t)
	if s.Kind != "fermata" {
		t.Skip("the command line speaks fermata.v1")
	}
	pod, id := s.container(t, command, change)
	return &commandLine{s, pod, id}
}

func (s *commandLine) fermata(args ...string) *exec.Cmd {
	cmd := exec.Command(s.Program(), args...)
	cmd.Env = append(os.Environ(), "FERMATA_ADDRESS="+s.Endpoint)
	return cmd
}

// count tells how many processes with a marker on their command line run in the container.
func (s *commandLine) count(t *testing.T, marker string) func() (int, string) {
	return func() (int, string) {
		out, err := s.CRI.Exec(t.Context(), s.id, "sh", "-c", "ps | grep -c '[s]leep "+marker+"' || true")
		check(t, err)
		var n int
		fmt.Sscan(out, &n)
		return n, out
	}
}

func TestFermataExec(t *testing.T) {
	s := newCommandLine(t, "exec sleep 1000", nil)
	t.Run("at a terminal", s.execAtATerminal)
	t.Run("with pipes", s.execWithPipes)
}

func (s *commandLine) execAtATerminal(t *testing.T) {
	t.Run("has its size from the first instruction on, and each new one", func(t *testing.T) {
		p := sit(t, s.fermata("exec", "-it", s.pod, "sh", "-c", "stty size; read go; until stty size | grep '20 80'; do :; done; exit 3"))
		p.expect("37 111")
		check(t, p.size(20, 80))
		p.say("go\n")
		p.expect("20 80")
		if code := p.status(); code != 3 {
			t.Errorf("status %d, want the command's 3", code)
		}
	})
	t.Run("Ctrl-C is the command's, and afterwards the terminal is what it was", func(t *testing.T) {
		cmd := s.fermata("exec", "-it", s.pod, "sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.01; done")
		p := sit(t, shellAround(cmd))
		p.expect("ready")
		p.say("\x03")
		p.expect("caught")
		if code := p.status(); code != 5 {
			t.Errorf("status %d, want the command's 5", code)
		}
	})
	t.Run("input that ends is ^D", func(t *testing.T) {
		for name, text := range map[string]string{"after a line": "a line\n", "in the middle of one": "a li"} {
			cmd := s.fermata("exec", "-it", s.pod, "cat")
			cmd.Stdin = strings.NewReader(text)
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Count(string(out), strings.TrimSuffix(text, "\n")) != 2 { // echoed and catted
				t.Errorf("%s: %q (%v)", name, out, err)
			}
		}
	})
}

// shellAround runs a command within a shell that ends as it does, if it left the terminal as it was.
func shellAround(cmd *exec.Cmd) *exec.Cmd {
	script := `before=$(stty -g); "$@"; code=$?; test "$before" = "$(stty -g)" && exit $code; stty -a; exit 99`
	around := exec.Command("sh", append([]string{"-c", script, "sh"}, cmd.Args...)...)
	around.Env = cmd.Env
	return around
}

func (s *commandLine) execWithPipes(t *testing.T) {
	t.Run("input, both outputs and the exit code", func(t *testing.T) {
		cmd := s.fermata("exec", "-i", s.pod, "--", "sh", "-c", "cat; echo complaint >&2; exit 7")
		var stdout, stderr bytes.Buffer
		sent := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(sent), &stdout, &stderr
		cmd.Run()
		if cmd.ProcessState.ExitCode() != 7 || stdout.String() != sent || stderr.String() != "complaint\n" {
			t.Errorf("status %d, %d of %d bytes, stderr %q", cmd.ProcessState.ExitCode(), stdout.Len(), len(sent), &stderr)
		}
	})
	t.Run("a command that ends before its input does", func(t *testing.T) {
		cmd := s.fermata("exec", "-i", s.pod, "true")
		in, err := cmd.StdinPipe()
		check(t, err)
		defer in.Close()
		check(t, cmd.Run())
	})
	t.Run("Ctrl-C ends the command and what it started", func(t *testing.T) {
		cmd := s.fermata("exec", s.pod, "sh", "-c", "sleep 4714 & sleep 4714")
		check(t, cmd.Start())
		count := s.count(t, "4714")
		eventually(t, "the command runs", func() (bool, string) { n, out := count(); return n >= 2, out })
		check(t, cmd.Process.Signal(syscall.SIGINT))
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("status %d, want 130", code)
		}
		eventually(t, "nothing is left", func() (bool, string) { n, out := count(); return n == 0, out })
	})
	t.Run("a time limit ends them too", func(t *testing.T) {
		out, err := s.fermata("exec", "--timeout", "300ms", s.pod, "sh", "-c", "sleep 4715 & sleep 4715").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "took longer than 300ms and was killed") {
			t.Errorf("%q (%v)", out, err)
		}
		count := s.count(t, "4715")
		eventually(t, "nothing is left", func() (bool, string) { n, out := count(); return n == 0, out })
	})
}

func TestFermataAttach(t *testing.T) {
	s := newCommandLine(t, "exec sh", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.Tty = true, true })
	p := sit(t, shellAround(s.fermata("attach", s.pod)))
	p.expect("detach with Ctrl-P Ctrl-Q")
	p.say("mark=kept; until stty size | grep '37 111'; do :; done\n")
	p.expect("37 111\r\n")
	p.say("\x10\x11")
	p.expect("detached from")
	if code := p.status(); code != 0 {
		t.Errorf("status %d after detaching", code)
	}
	p = sit(t, shellAround(s.fermata("attach", "--detach-keys", "ctrl-]", s.pod)))
	p.expect("attached to")
	p.say("echo $mark-$((40+2))\n")
	p.expect("kept-42")
	p.say("exit 4\n")
	if code := p.status(); code != 0 {
		t.Errorf("status %d after the container's end", code)
	}
	if st, err := s.CRI.WaitExited(t.Context(), s.id); err != nil || st.GetExitCode() != 4 {
		t.Errorf("%v %v", st, err)
	}
}

func TestFermataAttachWithPipes(t *testing.T) {
	s := newCommandLine(t, "while read line; do echo got $line; done; echo over; exit 3", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	cmd := s.fermata("attach", s.pod)
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "got one\ngot two\nover\n" {
		t.Errorf("%q (%v)", out, err)
	}
	out, err = s.fermata("attach", s.pod).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not running") {
		t.Errorf("after its end: %q (%v)", out, err)
	}
}

func TestFermataPortForward(t *testing.T) {
	s := newSession(t)
	if s.Kind != "fermata" {
		t.Skip("the command line speaks fermata.v1")
	}
	_, err := s.CRI.Pull(t.Context(), images.Nginx)
	check(t, err)
	pod, id := s.container(t, "", func(c *runtimeapi.ContainerConfig) { c.Image.Image, c.Command, c.Args = images.Nginx, nil, nil })
	cmd := (&commandLine{s, pod, id}).fermata("port-forward", "--bind", "127.0.0.1", pod, ":80", ":81")
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	stderr, err := cmd.StderrPipe()
	check(t, err)
	check(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	lines, complaints := bufio.NewScanner(stdout), bufio.NewScanner(stderr)
	var at []string
	for len(at) < 2 && lines.Scan() {
		at = append(at, strings.Fields(lines.Text())[2])
	}
	get := func(address string) string {
		conn, err := net.Dial("tcp", address)
		check(t, err)
		defer conn.Close()
		check(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		check(t, err)
		check(t, conn.(*net.TCPConn).CloseWrite()) // half: the answer still comes
		b, _ := io.ReadAll(conn)
		return string(b)
	}
	eventually(t, "the server listens", func() (bool, string) {
		out, err := s.CRI.Exec(t.Context(), id, "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 80")
		return strings.HasPrefix(out, "HTTP/1"), fmt.Sprint(out, err)
	})
	for range 20 {
		if b := get(at[0]); !strings.HasPrefix(b, "HTTP/1.") || !strings.Contains(b, " 200 ") {
			t.Fatalf("answer %q", b)
		}
		if b := get(at[1]); b != "" {
			t.Fatalf("answer %q of a port that nobody listens at", b)
		}
		if complaints.Scan(); !strings.Contains(complaints.Text(), "connection to port 81") || !strings.Contains(complaints.Text(), "connection refused") {
			t.Fatalf("told %q", complaints.Text())
		}
	}
	check(t, cmd.Process.Signal(syscall.SIGINT))
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("status %d after Ctrl-C", code)
	}
}

// Who waits is told when the daemon ends, and the daemon does not wait for him.
func TestSessionsEndWithTheDaemon(t *testing.T) {
	for name, end := range map[string]struct {
		signal syscall.Signal
		says   string
	}{
		"that is stopped": {syscall.SIGTERM, "the daemon is ending"},
		"that is killed":  {syscall.SIGKILL, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newCommandLine(t, "read line; exec sleep 1000", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
			var outputs []*bytes.Buffer
			var sessions []*exec.Cmd
			var inputs []io.Writer
			for _, args := range [][]string{{"exec", "-i", s.pod, "sh", "-c", "echo begun; exec sleep 4716"}, {"attach", s.pod}, {"port-forward", s.pod, ":80"}} {
				cmd := s.fermata(args...)
				in, err := cmd.StdinPipe()
				check(t, err)
				defer in.Close()
				var out bytes.Buffer
				cmd.Stderr = &out
				check(t, cmd.Start())
				outputs, sessions, inputs = append(outputs, &out), append(sessions, cmd), append(inputs, in)
			}
			count := s.count(t, "4716")
			eventually(t, "the command runs", func() (bool, string) { n, out := count(); return n == 1, out })
			io.WriteString(inputs[1], "go on\n")
			eventually(t, "the container hears who is attached", func() (bool, string) {
				out, err := s.CRI.Exec(t.Context(), s.id, "cat", "/proc/1/cmdline")
				return strings.HasPrefix(out, "sleep"), fmt.Sprint(out, err)
			})
			began := time.Now()
			check(t, syscall.Kill(s.PID(), end.signal))
			eventually(t, "the daemon ends", func() (bool, string) { return !s.Running(), "" })
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the daemon's end took %v", took)
			}
			for i, cmd := range sessions[:2] {
				cmd.Wait()
				if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(outputs[i].String(), end.says) {
					t.Errorf("%q: status %d, %q", cmd.Args[1:], code, outputs[i])
				}
			}
			sessions[2].Process.Signal(syscall.SIGINT)
			sessions[2].Wait()
			check(t, s.Restart(t.Context()))
			eventually(t, "the command is gone", func() (bool, string) { n, out := count(); return n == 0, out })
			if out, err := s.CRI.Exec(t.Context(), s.id, "echo", "alive"); err != nil || out != "alive\n" {
				t.Errorf("the container: %q %v", out, err)
			}
		})
	}
}
