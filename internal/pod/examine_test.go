package pod

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
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

// Below a parent of the kubelet's another runtime's groups are named as ours: one with processes is killed for nobody but who asks for that.
func TestACgroupOfNobodysWithProcessesIsLeftToAPerson(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	req.Config.Linux.CgroupParent = n.CgroupParent + "/poduid"
	must[string](t)(n.RunPodSandbox(t.Context(), req))
	n.real()
	path := filepath.Join(req.Config.Linux.CgroupParent, strings.Repeat("cd", 32))
	own := must[*cgroup.Group](t)(n.Cgroups.Create(filepath.Join(n.CgroupParent, strings.Repeat("ab", 32))))
	if found, told := n.examine(); len(found) != 1 || found[0].Asked || !strings.HasSuffix(told, "belongs to no pod or container") {
		t.Errorf("an empty one below fermata's own parent: %q", told)
	} else {
		n.mend(found)
	}
	if names := must[[]string](t)(n.Cgroups.Group(n.CgroupParent).Children()); slices.Contains(names, filepath.Base(own.Path())) {
		t.Errorf("below fermata's own parent after mending: %v", names)
	}
	must[*cgroup.Group](t)(n.Cgroups.Create(path))
	empty, told := n.examine()
	if len(empty) != 1 || !empty[0].Asked || !strings.HasSuffix(told, "belongs to no pod or container") { // whose maker has not yet filled it
		t.Errorf("an empty one below the kubelet's: %q", told)
	}
	n.inhabit(path)
	found, told := n.examine()
	if len(found) != 1 || !found[0].Asked || !strings.Contains(told, "has processes") {
		t.Errorf("one with a process: %q", told)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := empty[0].Mend(ctx); err == nil {
		t.Error("one that is no longer empty was removed")
	}
	if pids := must[[]int](t)(n.Cgroups.Group(path).Processes()); len(pids) != 1 {
		t.Errorf("processes after mending unasked: %v", pids)
	}
	n.mend(found)
	if _, told := n.examine(); told != "" {
		t.Errorf("after mending: %s", told)
	}
}
