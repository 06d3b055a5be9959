package cgroup_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestAProcessIsBornInTheGroupAndDiesWithIt(t *testing.T) {
	tree := machine(t)
	g := group(t, tree)
	cmd := start(t, g, "fork")
	pids, err := g.Processes()
	if err != nil || len(pids) != 2 || !slices.Contains(pids, cmd.Process.Pid) {
		t.Fatalf("processes %v (%v), want %d and its child", pids, err, cmd.Process.Pid)
	}
	own, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(own)) {
		if !strings.HasSuffix(line, g.Path()+"\n") {
			t.Errorf("not in the group in every hierarchy: %s", line)
		}
	}
	if err := g.Kill(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) != 0 {
		t.Errorf("after Kill: %v, %v", pids, err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Error(err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Errorf("remove what is gone: %v", err)
	}
}
