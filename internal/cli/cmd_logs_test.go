package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const log = `2026-01-02T10:00:00.1Z stdout F one
2026-01-02T10:00:01.2Z stderr F two
2026-01-02T10:00:02.3Z stdout P thr
2026-01-02T10:00:02.4Z stdout F ee
2026-01-02T10:00:03Z stdout F 
`

// logged puts a pod with one container and a log in.
func logged(t *testing.T, f *fake, text string) (path string) {
	t.Helper()
	dir := t.TempDir()
	f.addPod("default", "web", "aaaa1111", "server")
	f.configs["aaaa1111"] = &runtimeapi.PodSandboxConfig{LogDirectory: dir}
	f.asked["c0-aaaa1111"] = &runtimeapi.ContainerConfig{LogPath: "0.log"}
	path = filepath.Join(dir, "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLogsShowWhatWasAskedFor(t *testing.T) {
	f, address := serve(t)
	logged(t, f, log)
	for _, c := range []struct {
		name        string
		args        []string
		out, errOut string
	}{
		{"all, each stream to its own", nil, "one\nthree\n\n", "two\n"},
		{"the last two lines; pieces are one line", []string{"--tail", "2"}, "three\n\n", ""},
		{"more than there are", []string{"--tail=99"}, "one\nthree\n\n", "two\n"},
		{"none", []string{"--tail", "0"}, "", ""},
		{"since a time", []string{"--since", "2026-01-02T10:00:02Z"}, "three\n\n", ""},
		{"since a duration that reaches nothing", []string{"--since", "1s"}, "", ""},
		{"with times", []string{"--timestamps", "--tail", "2"}, "2026-01-02T10:00:02.3Z three\n2026-01-02T10:00:03Z \n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := do(t, address, "", append([]string{"logs", "web"}, c.args...)...)
			if (got != outcome{0, c.out, c.errOut}) {
				t.Errorf("%+v", got)
			}
		})
	}
	if got := do(t, address, "", "logs", "web", "--since", "yesterday"); got.code != 2 {
		t.Errorf("%+v", got)
	}
}

// A log that is followed is shown over a rotation, whole lines only, and the following ends with the container.
func TestFollowingALogOverARotation(t *testing.T) {
	f, address := serve(t)
	path := logged(t, f, "2026-01-02T10:00:00Z stdout F one\n2026-01-02T10:00:01Z stdout F tw")
	out := &watched{wrote: make(chan struct{}, 16)}
	ended := make(chan int, 1)
	go func() {
		ended <- Main(t.Context(), []string{"logs", "-f", "web"}, Env{Stdout: out, Stderr: out, Address: address})
	}()
	out.await(t, "one\n")
	appendTo(t, path, "o\n")
	out.await(t, "one\ntwo\n")
	appendTo(t, path, "2026-01-02T10:00:02Z stdout F three\n")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("2026-01-02T10:00:03Z stdout F four\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.await(t, "one\ntwo\nthree\nfour\n")
	f.mu.Lock()
	f.containers[0].State = runtimeapi.ContainerState_CONTAINER_EXITED
	f.mu.Unlock()
	if code := <-ended; code != 0 {
		t.Errorf("status %d: %s", code, out.text())
	}
}

func TestAnInterruptEndsFollowingWell(t *testing.T) {
	f, address := serve(t)
	logged(t, f, log)
	ctx, interrupt := context.WithCancel(t.Context())
	out := &watched{wrote: make(chan struct{}, 16)}
	ended := make(chan int, 1)
	go func() {
		ended <- Main(ctx, []string{"logs", "-f", "web"}, Env{Stdout: out, Stderr: out, Address: address})
	}()
	out.await(t, "one\ntwo\nthree\n\n")
	interrupt()
	if code := <-ended; code != 0 {
		t.Errorf("status %d: %s", code, out.text())
	}
}

// watched is a writer that can be waited on.
type watched struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	wrote chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	select {
	case w.wrote <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (w *watched) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *watched) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for w.text() != want {
		select {
		case <-w.wrote:
		case <-deadline:
			t.Fatalf("shown %q, want %q", w.text(), want)
		}
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestLogLines(t *testing.T) {
	for _, c := range []struct {
		name, line string
		ok         bool
		text       string
		partial    bool
	}{
		{"a full line", "2026-01-02T10:00:00.1Z stdout F a b", true, "a b", false},
		{"a piece", "2026-01-02T10:00:00.1+02:00 stderr P a", true, "a", true},
		{"tags to come", "2026-01-02T10:00:00Z stdout F:x a", true, "a", false},
		{"an empty line", "2026-01-02T10:00:00Z stdout F ", true, "", false},
		{"an empty line without its space", "2026-01-02T10:00:00Z stdout F", true, "", false},
		{"another stream is shown whole", "2026-01-02T10:00:00Z stdwhat F a", false, "2026-01-02T10:00:00Z stdwhat F a", false},
		{"another tag is shown whole", "2026-01-02T10:00:00Z stdout X a", false, "2026-01-02T10:00:00Z stdout X a", false},
		{"no log line is shown whole", "panic: here", false, "panic: here", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, ok := parseLog([]byte(c.line))
			if ok != c.ok || string(e.Text) != c.text || e.Partial != c.partial {
				t.Errorf("%+v, %v", e, ok)
			}
		})
	}
}

func FuzzLog(f *testing.F) {
	f.Add(log, 2)
	f.Fuzz(func(t *testing.T, text string, n int) {
		start, err := tailStart(strings.NewReader(text), n)
		if err != nil || start < 0 || start > int64(len(text)) || start > 0 && text[start-1] != '\n' {
			t.Errorf("tailStart(%q, %d) = %d, %v", text, n, start, err)
		}
		for line := range strings.Lines(text) {
			parseLog([]byte(line))
		}
	})
}
