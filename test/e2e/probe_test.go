package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Peers leave children of a timed-out probe behind, or hang on the pipe that they hold (containerd #4594, Kubernetes #92057, #110070).
func TestATimedOutProbeLeavesNothing(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "probed")
	id := p.run(t, shell("main", "exec sleep 100000"))
	_, err := n.CRI.Exec(t.Context(), id, "true")
	check(t, err)
	groups := n.groupsBelow(t, id)
	if len(groups) == 0 {
		t.Error("execs have no group of their own")
	}
	for i, c := range []struct{ name, script string }{
		{"the command itself", "exec sleep N"},
		{"a child", "sleep N; true"},
		{"a grandchild that holds the pipe", "(sleep N &) ; sleep N"},
		{"one in a session of its own that holds the pipe", "setsid sleep N & sleep N"},
		{"a crowd", "for i in 1 2 3 4 5 6 7 8; do (setsid sleep N &) ; done; sleep N"},
		{"one that takes no notice", "trap '' TERM INT HUP; while :; do sleep N; done"},
	} {
		t.Run(c.name, func(t *testing.T) {
			marker := strconv.Itoa(7_000_000 + os.Getpid()%10_000*100 + i) // seconds to sleep, found again in /proc
			began := time.Now()
			_, err := n.CRI.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{
				ContainerId: id, Cmd: []string{"sh", "-c", strings.ReplaceAll(c.script, "N", marker)}, Timeout: 1,
			})
			if status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("it ended with %v, want DeadlineExceeded", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("a second's timeout took %v", took)
			}
			eventually(t, "all that it started to be gone", func() (bool, string) {
				left := running(t, marker)
				return len(left) == 0, fmt.Sprint(left)
			})
		})
	}
	if out, err := n.CRI.Exec(t.Context(), id, "echo", "well"); err != nil || out != "well\n" {
		t.Errorf("afterwards: %q, %v", out, err)
	}
	if now := n.groupsBelow(t, id); !maps.Equal(now, groups) {
		t.Errorf("groups of execs are %v, were %v: they are to be kept, and no more", now, groups)
	}
}

// Beside others, one that is killed takes none of them with it (docs/decisions/0004).
func TestATimedOutProbeSparesTheOthers(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "probed")
	id := p.run(t, shell("main", "exec sleep 100000"))
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if out, err := n.CRI.Exec(t.Context(), id, "sh", "-c", "sleep 3; echo through"); err != nil || out != "through\n" {
				t.Errorf("one beside it: %q, %v", out, err)
			}
		})
		wg.Go(func() {
			_, err := n.CRI.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep 60 & sleep 60"}, Timeout: 1})
			if status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("the one that takes too long: %v", err)
			}
		})
	}
	wg.Wait()
}

// A command that has ended is answered, though what it left behind holds the pipe; and that goes on, as with docker exec.
func TestAProbeThatEndsIsAnsweredThoughAChildHoldsThePipe(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "probed")
	id := p.run(t, shell("main", "exec sleep 100000"))
	marker := strconv.Itoa(7_000_000 + os.Getpid()%10_000*100 + 99)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := n.CRI.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "sleep " + marker + " & echo up; exit 3"}})
	if err != nil || string(r.Stdout) != "up\n" || r.ExitCode != 3 {
		t.Errorf("got %v, %v", r, err)
	}
	if len(running(t, marker)) != 1 {
		t.Error("what it left behind was killed")
	}
}

// running are the processes of the machine with a word on their command line, by PID.
func running(t *testing.T, word string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	found := map[string]string{}
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(line), word) { // otherwise it has ended
			found[filepath.Base(filepath.Dir(path))] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// groupsBelow are the control groups below a container's, in every hierarchy, with their inodes.
func (w *world) groupsBelow(t *testing.T, id string) map[string]uint64 {
	t.Helper()
	r, err := w.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	check(t, err)
	var info struct{ Cgroup string }
	check(t, json.Unmarshal([]byte(r.Info["info"]), &info))
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*" + info.Cgroup)
	check(t, err)
	below := map[string]uint64{}
	for _, top := range append(hierarchies, "/sys/fs/cgroup"+info.Cgroup) {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() || path == top {
				return nil // the top is not there in every hierarchy
			}
			st, err := entry.Info()
			if err == nil {
				below[path] = st.Sys().(*syscall.Stat_t).Ino
			}
			return err
		})
		check(t, err)
	}
	return below
}
