package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/images"
)

// shows runs fermata and returns what it shows; it must succeed.
func (s *commandLine) shows(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.fermata(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("fermata %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pids are the pod's pause and its container's first process, as the tree has them.
func (s *commandLine) pids(t *testing.T) (pause, first int) {
	t.Helper()
	var tree struct {
		Pods []struct {
			ID    string
			Pause struct{ Pid int }
			// protojson's names
			Containers []struct{ Processes []struct{ Pid int } }
		}
	}
	check(t, json.Unmarshal([]byte(s.shows(t, "tree", "-o", "json")), &tree))
	for _, p := range tree.Pods {
		if p.ID == s.pod {
			return p.Pause.Pid, p.Containers[0].Processes[0].Pid
		}
	}
	t.Fatalf("no pod %s in %v", s.pod, tree)
	return 0, 0
}

func inode(t *testing.T, pid int, kind string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	check(t, err)
	return strings.TrimSuffix(strings.TrimPrefix(link, kind+":["), "]")
}

func TestFermataExplainsAPod(t *testing.T) {
	s := newCommandLine(t, "sleep 4717 & exec sleep 4718", nil)
	pause, first := s.pids(t)
	t.Run("tree", func(t *testing.T) {
		eventually(t, "the tree with both processes", func() (bool, string) {
			out := s.shows(t, "tree", s.pod)
			want := fmt.Sprintf("pause (%d)", pause)
			return strings.Contains(out, want) && strings.Contains(out, fmt.Sprintf("sleep (%d)\n         └─ sleep (", first)) && strings.Contains(out, "main  "), out
		})
	})
	t.Run("ns", func(t *testing.T) {
		number := inode(t, pause, "net")
		if out := s.shows(t, "ns", number); !strings.Contains(out, "held by: pause, keeper (fd ") || strings.Count(out, "sleep") != 2 {
			t.Errorf("by number:\n%s", out)
		}
		if out := s.shows(t, "ns", "--pid", strconv.Itoa(first)); !strings.Contains(out, "is the first of container main of pod test/stream") {
			t.Errorf("by process:\n%s", out)
		}
		if out := s.shows(t, "ns", s.pod); !strings.Contains(out, number) || !strings.Contains(out, "the pod's, shared") {
			t.Errorf("of the pod:\n%s", out)
		}
		if out := s.shows(t, "ns"); !strings.Contains(out, number) || !strings.Contains(out, inode(t, first, "mnt")) {
			t.Errorf("all:\n%s", out)
		}
		out, err := s.fermata("ns", "4294967295").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "nobody is in it") {
			t.Errorf("none: %v %s", err, out)
		}
	})
	t.Run("enter", func(t *testing.T) {
		for _, c := range []struct {
			kind string
			args []string
			of   int
		}{
			{"net", nil, pause}, {"uts", []string{"--uts"}, pause}, {"ipc", []string{"--net=ipc"}, pause},
		} {
			args := append(append([]string{"enter", s.pod}, c.args...), "--", "readlink", "/proc/self/ns/"+c.kind)
			if out := s.shows(t, args...); out != c.kind+":["+inode(t, c.of, c.kind)+"]\n" {
				t.Errorf("%v: %s", c.args, out)
			}
		}
		if out := s.shows(t, "enter", s.id[:12], "--pid", "sh", "-c", "readlink /proc/self/ns/net; echo $$"); strings.Contains(out, inode(t, pause, "net")) || len(out) > 30 {
			t.Errorf("in the PID namespace alone: %s", out)
		}
		if out := s.shows(t, "enter", s.id[:12], "--mnt", "cat", "/etc/hostname"); out != "pod\n" {
			t.Errorf("in the container's files: %q", out)
		}
		for script, want := range map[string]int{"exit 7": 7, "kill -9 $$": 137} {
			cmd := s.fermata("enter", s.pod, "--", "sh", "-c", script)
			cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("%s: status %d, want %d", script, code, want)
			}
		}
		if out, err := s.fermata("enter", s.pod, "--", "nonexistent").CombinedOutput(); err == nil || !strings.Contains(string(out), "run nonexistent") {
			t.Errorf("%v %s", err, out)
		}
		p := sit(t, s.fermata("enter", s.pod, "--", "sh", "-c", "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.01; done"))
		p.expect("ready")
		p.say("\x03")
		p.expect("caught")
		if code := p.status(); code != 5 {
			t.Errorf("Ctrl-C: status %d, want the program's 5", code)
		}
	})
}

func TestFermataWatchesAContainer(t *testing.T) {
	s := newCommandLine(t, "echo new >/etc/new; rm /etc/passwd; echo more >>/etc/group; read line; exit 3", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	eventually(t, "the changes", func() (bool, string) {
		out := s.shows(t, "diff", s.pod)
		return strings.Contains(out, "A /etc/new\n") && strings.Contains(out, "C /etc/group\n") && strings.Contains(out, "D /etc/passwd\n") && strings.HasPrefix(out, "C /etc\n"), out
	})
	if out := s.shows(t, "history", images.Busybox); !strings.HasPrefix(out, "LAYER") || strings.Count(out, "\n") < 2 {
		t.Errorf("history:\n%s", out)
	}
	if out := s.shows(t, "port", s.pod); out != "POD   PORT   HOST\n" {
		t.Errorf("ports:\n%s", out)
	}
	follow := sit(t, s.fermata("events", "-f"))
	follow.expect("started  container  test/stream")
	wait := s.fermata("wait", s.id[:12])
	out, err := wait.StdoutPipe()
	check(t, err)
	check(t, wait.Start())
	attach := s.fermata("attach", s.pod)
	attach.Stdin = strings.NewReader("go\n")
	check(t, attach.Run())
	code, err := io.ReadAll(out)
	if err != nil || string(code) != "3\n" || wait.Wait() != nil {
		t.Errorf("wait: %q (%v)", code, err)
	}
	if out := s.shows(t, "wait", s.pod); out != "3\n" {
		t.Errorf("wait for what has ended: %q", out)
	}
	follow.expect("stopped  container  test/stream")
	follow.expect("exit code 3")
	follow.say("\x03")
	if code := follow.status(); code != 0 {
		t.Errorf("events: status %d after Ctrl-C", code)
	}
}
