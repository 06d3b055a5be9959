package native_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"fermata/internal/cgroup"
	"fermata/internal/engine"
)

// CVE-2022-0492, CVE-2023-25809: a container sees its own control groups as the root of all, and cannot write to them.
func TestContainerIsBornInItsCgroupsAndSeesNoOthers(t *testing.T) {
	tree, err := cgroup.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	parent := fmt.Sprintf("/fermata-test-native-%d", os.Getpid())
	group, err := tree.Create(parent + "/c")
	if err != nil {
		t.Fatal(err)
	}
	// The processes of the test are registered later, so they are gone by then.
	t.Cleanup(func() {
		if err := group.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		if err := tree.Group(parent).Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p := newNode(t).pod(nil)
	join, err := group.Join()
	if err != nil {
		t.Fatal(err)
	}
	defer join.Close()
	r := p.request("cat=/proc/self/cgroup", "ls=/sys/fs/cgroup", "write=/sys/fs/cgroup/memory/cgroup.procs,1", "write=/sys/fs/cgroup/memory/release_agent,/x",
		"mkdir=/sys/fs/cgroup/memory/sub", "mkdir=/sys/fs/cgroup/x", "ls=/sys/fs/cgroup/memory", "ls=/sys/fs/cgroup/cpu", "cat=/proc/self/oom_score_adj", "ready", "wait")
	r.input.CgroupsPath = group.Path()
	r.input.Config.Linux.Resources = nil
	r.plan = func(c *engine.Container) { c.Join = join; score := 500; c.Spec.Process.OOMScoreAdj = &score }
	first, _ := p.start(r)
	first.await()
	processes, err := group.Processes()
	if err != nil || len(processes) != 1 || processes[0] != first.pid {
		t.Errorf("in the group: %v, %v, want %d", processes, err, first.pid)
	}
	text := first.seen + first.output()
	for _, line := range strings.Split(text, "\n") {
		if strings.Count(line, ":") == 2 && !strings.Contains(line, " ") && !strings.HasSuffix(line, ":/") {
			t.Errorf("it sees that it is in %s", line)
		}
	}
	if tree.Mode() != cgroup.V2 {
		wants(t, text, "memory", "cgroup.procs", "500")
	}
	if n := strings.Count(text, "error"); n < 4 {
		t.Errorf("only %d of its writes failed:\n%s", n, text)
	}
}
