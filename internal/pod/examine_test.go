package pod

import (
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// examine says what Examine finds, "object: what" each.
func (n *node) examine() (found []Difference, told string) {
	n.t.Helper()
	found = must[[]Difference](n.t)(n.Examine(n.t.Context()))
	var lines []string
	for _, d := range found {
		lines = append(lines, d.Object+": "+d.What)
	}
	return found, strings.Join(lines, "\n")
}

// real gives every process of the fake keeper the PID of one that exists.
func (n *node) real() {
	n.runtime.mu.Lock()
	defer n.runtime.mu.Unlock()
	for _, p := range n.runtime.processes {
		p.pid = os.Getpid()
	}
}

func (n *node) mend(found []Difference) {
	n.t.Helper()
	for _, d := range found {
		if err := d.Mend(n.t.Context()); err != nil {
			n.t.Errorf("%s: %s: %v", d.Object, d.What, err)
		}
	}
}

func TestExaminingFindsRecordsWithoutAProcess(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	if _, told := n.examine(); !strings.Contains(told, "which does not exist") {
		t.Errorf("PIDs that nobody has: %q", told)
	}
	n.real()
	if _, told := n.examine(); told != "" {
		t.Errorf("where all is well: %s", told)
	}
	n.replaceKeeper()
	found, told := n.examine()
	if len(found) != 2 || !strings.Contains(told, "pause of pod") || !strings.Contains(told, "the keeper holds none") {
		t.Errorf("a keeper that holds nothing: %q", told)
	}
	n.mend(found)
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container after mending: %v", s)
	}
	if _, told := n.examine(); told != "" {
		t.Errorf("after mending: %s", told)
	}
}

func TestExaminingFindsProcessesWithoutARecord(t *testing.T) {
	n := newNode(t)
	stray := must[*Process](t)(n.runtime.start(strings.Repeat("cd", 32)))
	stray.Pidfd.Close()
	found, told := n.examine()
	if len(found) != 1 || !strings.Contains(told, "held for no pod") {
		t.Errorf("a process of nobody's: %q", told)
	}
	n.mend(found)
	until(func() bool { return n.runtime.live() == 0 })
}
