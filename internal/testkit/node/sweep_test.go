package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/testkit/leak"
	"fermata/internal/testkit/machine"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestSweepingTellsOfWhatIsLeftAndRemovesIt(t *testing.T) {
	name := fmt.Sprintf("sw%d", os.Getpid())
	n := &Node{scope: machine.Scope{Cgroups: []string{"/" + name}, Links: []string{name}}}
	if found, err := n.Sweep(); err != nil || len(found) != 0 {
		t.Errorf("with nothing left: %q, %v", found, err)
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if len(parents) == 0 {
		parents = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	group := filepath.Join(filepath.Dir(parents[0]), name, "inner")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sleep.Wait() }()
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), fmt.Append(nil, sleep.Process.Pid), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "add", name, "type", "veth", "peer", "name", name+"p").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found, err := n.Sweep()
	told := strings.Join(found, "\n")
	if err != nil || !strings.Contains(told, fmt.Sprintf("process %d in", sleep.Process.Pid)) || !strings.Contains(told, "cgroup "+group) || !strings.Contains(told, "link "+name) {
		t.Errorf("found %q, %v", found, err)
	}
	<-ended
	if found, err := n.Sweep(); err != nil || len(found) != 0 {
		t.Errorf("after sweeping: %q, %v", found, err)
	}
}
