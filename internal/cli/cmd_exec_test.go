package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/linux"
)

func TestExecShowsWhatIsWrittenAndEndsAsTheCommandDid(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server", "client")
	for _, c := range []struct {
		name, stdin string
		args        []string
		want        outcome
	}{
		{"the command's flags are its own", "unread", []string{"web", "-c", "client", "ls", "-l", "-c", "x"},
			outcome{7, "c1-aaaa1111 [\"ls\" \"-l\" \"-c\" \"x\"] stdin false tty false\n", "warned\n"}},
		{"two dashes begin the command", "", []string{"-t", "web", "--container", "client", "--", "-odd"},
			outcome{7, "c1-aaaa1111 [\"-odd\"] stdin false tty true\n", "warned\n"}},
		{"the input is given, and its end", strings.Repeat("x", 100_000), []string{"-i", "web/server", "cat"}, outcome{0, strings.Repeat("x", 100_000), ""}},
		{"at a terminal that is none", "typed", []string{"-it", "web/server", "cat"}, outcome{0, "typed", ""}},
		{"a container that is not there", "", []string{"web", "-c", "clinet", "ls"},
			outcome{1, "", "fermata: container \"clinet\": not in pod default/web, which has: server, client\n"}},
		{"a command that takes too long", "", []string{"--timeout", "50ms", "web/server", "hang"},
			outcome{1, "", "fermata: exec in web/server: the command took longer than 50ms and was killed\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := do(t, address, c.stdin, append([]string{"exec"}, c.args...)...); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	if got := do(t, address, "", "exec", "web", "--help"); got.code != 0 || !strings.Contains(got.out, "Usage:\n  fermata exec") {
		t.Errorf("help after the pod: %+v", got)
	}
}

func TestExecThatIsInterruptedHasTheStatusOfOne(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server")
	ctx, cancel := context.WithCancel(t.Context())
	f.begun = cancel
	var out, complaints bytes.Buffer
	if code := Main(ctx, []string{"exec", "web", "hang"}, Env{Stdout: &out, Stderr: &complaints, Address: address}); code != 130 || complaints.Len() > 0 {
		t.Errorf("status %d, %q", code, &complaints)
	}
}

func TestExecSaysThatItsInputCannotBeRead(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server")
	var out, complaints bytes.Buffer
	env := Env{Stdin: iotest.ErrReader(errors.New("it is a directory")), Stdout: &out, Stderr: &complaints, Address: address}
	if code := Main(t.Context(), []string{"exec", "-i", "web", "cat"}, env); code != 1 || complaints.String() != "fermata: exec in web/server: read standard input: it is a directory\n" {
		t.Errorf("status %d, %q", code, &complaints)
	}
}

// terminal is a pseudo-terminal: what a person sees and types, and the console of a command.
func terminal(t *testing.T) (person *os.File, theirs *os.File) {
	t.Helper()
	devpts, err := linux.OpenDir("/dev/pts")
	if err != nil {
		t.Fatal(err)
	}
	defer devpts.Close()
	master, slave, err := devpts.NewTerminal()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(master.SetTerminalSize(37, 111), master.SetNonblock(true)); err != nil {
		t.Fatal(err)
	}
	person, theirs = master.File(), slave.File()
	t.Cleanup(func() { person.Close(); theirs.Close() })
	return person, theirs
}

func TestATerminalIsRawWhileASessionHasIt(t *testing.T) {
	person, theirs := terminal(t)
	c := NewConsole(theirs)
	if c == nil {
		t.Fatal("a terminal is not taken for one")
	}
	if columns, rows := c.size(); columns != 111 || rows != 37 {
		t.Errorf("size %dx%d", columns, rows)
	}
	restore, err := c.raw()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(person, "\x03x"); err != nil {
		t.Fatal(err)
	}
	typed := make([]byte, 2)
	if _, err := io.ReadFull(theirs, typed); err != nil || string(typed) != "\x03x" {
		t.Errorf("raw: %q (%v), want every key, without Enter", typed, err)
	}
	restore()
	if _, err := io.WriteString(person, "y\n"); err != nil {
		t.Fatal(err)
	}
	echo := make([]byte, 3)
	if _, err := io.ReadFull(person, echo); err != nil || string(echo) != "y\r\n" {
		t.Errorf("restored: %q (%v), want an echo", echo, err)
	}
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	if NewConsole(pipe) != nil {
		t.Error("a pipe is taken for a terminal")
	}
}

func TestAttachTakesWhatTheContainerHas(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server")
	for _, c := range []struct {
		name  string
		has   *fermatav1.Attached
		stdin string
		args  []string
		want  outcome
	}{
		{"an input", &fermatav1.Attached{Stdin: true}, "hello\n", nil, outcome{0, "hello\n", ""}},
		{"an input that nobody wants to give", &fermatav1.Attached{Stdin: true}, "hello\n", []string{"--no-stdin"}, outcome{0, "", "only watched\n"}},
		{"none", &fermatav1.Attached{}, "hello\n", nil, outcome{0, "", "only watched\n"}},
		{"a terminal, where there is none here", &fermatav1.Attached{Stdin: true, Tty: true}, "\x10\x11", []string{"-it"}, outcome{0, "\x10\x11", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.attach = c.has
			if got := do(t, address, c.stdin, append([]string{"attach", "web"}, c.args...)...); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestKeysDetach(t *testing.T) {
	for _, c := range []struct{ name, keys, typed, given string }{
		{"none of them", defaultDetachKeys, "ls\n", "ls\n"},
		{"both", defaultDetachKeys, "ls\x10\x11more", "ls"},
		{"the first and another", defaultDetachKeys, "\x10a\x10\x10b\x10", "\x10a\x10\x10b\x10"},
		{"the first twice, then the second", defaultDetachKeys, "\x10\x10\x11", "\x10"},
		{"keys that begin again in themselves", "a,a,b", "aaab", "a"},
		{"one", "ctrl-]", "x\x1dy", "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, err := detachKeys(c.keys)
			if err != nil {
				t.Fatal(err)
			}
			for name, from := range map[string]io.Reader{"at once": strings.NewReader(c.typed), "one by one": iotest.OneByteReader(strings.NewReader(c.typed))} {
				got, err := io.ReadAll(&detacher{from: from, keys: keys})
				detached := len(c.given) < len(c.typed)
				if string(got) != c.given || errors.Is(err, errDetached) != detached {
					t.Errorf("%s: %q (%v), want %q", name, got, err, c.given)
				}
			}
		})
	}
}

func TestPortsAreReadAsKubectlReadsThem(t *testing.T) {
	for text, want := range map[string]portPair{"80": {80, 80}, "8080:80": {8080, 80}, ":80": {0, 80}, "0:80": {0, 80}} {
		if got, err := parsePorts(text); err != nil || got != want {
			t.Errorf("%q: %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "80:", "80:0", "65536", "x:80", "80:80:80", "-1"} {
		if got, err := parsePorts(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// lines gives a command's output line by line.
type lines chan string

// Write implements io.Writer.
func (l lines) Write(p []byte) (int, error) { l <- string(p); return len(p), nil }

func TestPortForwardJoinsConnectionsUntilThePodEnds(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server")
	out, complaints := make(lines, 10), make(lines, 10)
	done := make(chan int, 1)
	go func() {
		done <- Main(t.Context(), []string{"port-forward", "--bind", "127.0.0.1", "web", ":80", ":9", ":10"}, Env{Stdout: out, Stderr: complaints, Address: address})
	}()
	dial := func(line, remote string) *net.TCPConn {
		t.Helper()
		words := strings.Fields(line)
		if len(words) != 5 || words[4] != remote {
			t.Fatalf("%q, want an address for %s", line, remote)
		}
		conn, err := net.Dial("tcp", words[2])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn.(*net.TCPConn)
	}
	first, second, third := <-out, <-out, <-out
	good := dial(first, "80")
	io.WriteString(good, "ping")
	bad := dial(second, "9")
	if b, err := io.ReadAll(bad); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if got := <-complaints; got != "fermata: connection to port 9: forward to port 9: connection refused\n" {
		t.Errorf("%q", got)
	}
	if err := good.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(good); err != nil || string(b) != "ping" {
		t.Errorf("%q (%v)", b, err)
	}
	dial(third, "10")
	if got, code := <-complaints, <-done; code != 1 || got != "fermata: forward ports of default/web: find pod sandbox web: it is not ready\n" {
		t.Errorf("status %d, %q", code, got)
	}
}
