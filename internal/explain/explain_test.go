package explain

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/pod"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// fake is the pods, and a /proc of the test's.
type fake struct {
	t     *testing.T
	proc  string
	seen  []pod.Seen
	upper string
	lower []string
}

func (f *fake) See() []pod.Seen { return f.seen }

func (f *fake) Layers(string) (string, []string, error) { return f.upper, f.lower, nil }

func (f *fake) ListContainerStats(*runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	return []*runtimeapi.ContainerStats{{Attributes: &runtimeapi.ContainerAttributes{Id: "c1"}, Memory: &runtimeapi.MemoryUsage{WorkingSetBytes: &runtimeapi.UInt64Value{Value: 4096}}}}
}

func (f *fake) write(path, text string) {
	f.t.Helper()
	path = filepath.Join(f.proc, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) link(path, to string) {
	f.t.Helper()
	path = filepath.Join(f.proc, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(to, path)); err != nil {
		f.t.Fatal(err)
	}
}

// process adds one; namespaces are by kind, what is not named is the host's.
func (f *fake) process(pid, parent int, name, cgroup string, namespaces map[string]uint64) {
	f.t.Helper()
	f.write(fmt.Sprintf("%d/stat", pid), fmt.Sprintf("%d (%s) S %d 0 0 0 -1 %d 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 %d 0\n", pid, name, parent, 0, 200, 3))
	f.write(fmt.Sprintf("%d/cgroup", pid), "2:memory:"+cgroup+"\n1:cpu:"+cgroup+"\n0::"+cgroup+"\n")
	for i, kind := range Kinds {
		inode, ok := namespaces[kind]
		if !ok {
			inode = uint64(i + 1)
		}
		f.link(fmt.Sprintf("%d/ns/%s", pid, kind), fmt.Sprintf("%s:[%d]", kind, inode))
	}
}

// node is a pod of two containers, one of which had an exec, a pod with the host's namespaces, and what else runs on a machine.
func node(t *testing.T) (*fake, *Explainer) {
	f := &fake{t: t, proc: t.TempDir()}
	f.write("stat", "cpu 1 2 3\nbtime 1000\nprocesses 9\n")
	f.write("2/stat", "2 (kthreadd) S 0 0 0 0 -1 2097152 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0 0\n")
	f.write("1/mountinfo", "36 35 0:4 / / rw - ext4 x rw\n40 36 0:4 net:[100] /run/netns/fermata-a rw shared:1 - nsfs nsfs rw\n")
	f.process(1, 0, "init", "/", nil)
	f.process(50, 1, "fermata-keeper", "/keeper", nil)
	f.link("self", "1")
	shared := map[string]uint64{"net": 100, "ipc": 101}
	f.process(60, 50, "pause", "/pods/a", map[string]uint64{"net": 100, "ipc": 101, "pid": 102})
	own := func(more map[string]uint64) map[string]uint64 {
		all := map[string]uint64{"net": shared["net"], "ipc": shared["ipc"]}
		for k, v := range more {
			all[k] = v
		}
		return all
	}
	f.process(61, 50, "odd) name (", "/pods/c1", own(map[string]uint64{"pid": 110, "mnt": 111}))
	f.process(62, 61, "child", "/pods/c1", own(map[string]uint64{"pid": 110, "mnt": 111}))
	f.process(63, 50, "exec", "/pods/c1/execs", own(map[string]uint64{"pid": 110, "mnt": 112})) // unshared its mounts
	f.process(64, 50, "other", "/pods/c2", own(map[string]uint64{"pid": 120}))
	f.process(70, 50, "agent", "/pods/c3", nil)
	f.process(80, 1, "tcpdump", "/user", map[string]uint64{"net": 100})
	f.process(90, 1, "unrelated", "/pods", map[string]uint64{"net": 200})
	f.link("50/fd/17", "net:[100]")
	f.link("50/fd/18", "uts:[300]")
	f.link("50/fd/3", "socket:[100]")
	f.link("50/fd/4", "/some/file")
	running := func(id, in string, pid int) pod.ContainerRecord {
		return pod.ContainerRecord{ID: id, PodID: in, State: pod.StateRun, Cgroup: "/pods/" + id, Process: pod.Recorded{PID: pid}}
	}
	f.seen = []pod.Seen{
		{Pod: pod.PodRecord{ID: "a", State: pod.Ready, Cgroup: "/pods/a", Pause: pod.Recorded{PID: 60}}, Containers: []pod.ContainerRecord{
			running("c1", "a", 61), running("c2", "a", 64), {ID: "c0", PodID: "a", State: pod.Exited, Cgroup: "/pods/c0", Process: pod.Recorded{PID: 70}},
		}},
		{Pod: pod.PodRecord{ID: "b", State: pod.NotReady, Cgroup: "/pods/b", Pause: pod.Recorded{PID: 80}}, Containers: []pod.ContainerRecord{running("c3", "b", 70)}},
	}
	return f, &Explainer{Pods: f, Proc: f.proc, Keeper: func() (int, error) { return 50, nil }}
}

// text is a namespace in one line.
func text(n *Namespace) string {
	var all []string
	for _, p := range n.Processes {
		all = append(all, fmt.Sprintf("%d%s", p.PID, map[Role]string{Stranger: "?", Pause: "P", First: "F", Other: ""}[p.Role]))
	}
	held := ""
	for _, h := range n.Holders {
		held += map[By]string{ByPause: " pause", ByKeeper: fmt.Sprint(" fd", h.FD), ByBind: " " + h.Path}[h.What]
	}
	host := ""
	if n.Host {
		host = " host"
	}
	return fmt.Sprintf("%s %d%s %s/%s: %s;%s", n.Kind, n.Inode, host, n.Pod, n.Container, strings.Join(all, " "), held)
}

func TestNamespacesAndWhoKeepsThem(t *testing.T) {
	_, e := node(t)
	const netOfA = "net 100 a/: 60P 61F 64F 62 63; pause fd17 /run/netns/fermata-a"
	for _, c := range []struct {
		name  string
		which Which
		want  []string
	}{
		{"a pod's", Which{Pod: "a"}, []string{
			netOfA, "ipc 101 a/: 60P 61F 64F 62 63; pause", "pid 102 a/: 60P; pause",
			"pid 110 a/c1: 61F 62 63;", "mnt 111 a/c1: 61F 62;", "mnt 112 a/c1: 63;", "pid 120 a/c2: 64F;",
			"uts 3 host /: 60P 61F 64F 70F 62 63;", "mnt 5 host /: 60P 64F 70F;", "cgroup 6 host /: 60P 61F 64F 70F 62 63;", "user 7 host /: 60P 61F 64F 70F 62 63;",
		}},
		{"one by number, with strangers, who do not make it another's", Which{Inode: 100}, []string{"net 100 a/: 60P 61F 64F 62 63 80?; pause fd17 /run/netns/fermata-a"}},
		{"one that nobody is in, but the keeper holds", Which{Inode: 300}, []string{"uts 300 /: ; fd18"}},
		{"one that is nobody's of fermata's", Which{Inode: 200}, []string{"net 200 /: 90?;"}},
		{"a process's", Which{PID: 63}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := e.Namespaces(c.which)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range list {
				got = append(got, text(n))
			}
			if c.want == nil { // too many of the host's to name
				if len(got) != len(Kinds) || got[0] != "net 100 a/: 60P 61F 64F 62 63 80?; pause fd17 /run/netns/fermata-a" {
					t.Errorf("%s", strings.Join(got, "\n"))
				}
				return
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
	all, err := e.Namespaces(Which{})
	if err != nil || len(all) != 14 || text(all[0]) != netOfA {
		t.Errorf("all: %d, %v", len(all), err)
	}
}

func TestNamespacesThatAreNotThere(t *testing.T) {
	f, e := node(t)
	f.write("95/stat", "95 (hidden) S 1 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 200 0 3 0\n")
	for _, c := range []struct {
		which Which
		kind  errs.Kind
	}{
		{Which{Inode: 999}, errs.NotFound}, {Which{PID: 999}, errs.NotFound}, {Which{PID: 2}, errs.NotFound}, {Which{PID: 95}, errs.PermissionDenied},
		{Which{Pod: "none"}, errs.FailedPrecondition},
	} {
		if list, err := e.Namespaces(c.which); !errs.Is(err, c.kind) {
			t.Errorf("%+v: %v %v, want %v", c.which, list, err, c.kind)
		}
	}
	e.Keeper = func() (int, error) { return 51, nil } // has just ended
	if list, err := e.Namespaces(Which{Inode: 100}); err != nil || text(list[0]) != "net 100 a/: 60P 61F 64F 62 63 80?; pause /run/netns/fermata-a" {
		t.Errorf("%v %v", list, err)
	}
}

func TestTheTreeHasEveryProcessOnce(t *testing.T) {
	f, e := node(t)
	f.process(65, 1, "stray", "/pods/a", nil)
	tree, err := e.Tree()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range tree.Pods {
		line := p.Record.ID
		if p.Pause != nil {
			line += fmt.Sprintf(" pause %d", p.Pause.PID)
		}
		for _, s := range p.Strays {
			line += fmt.Sprintf(" stray %d", s.PID)
		}
		for _, c := range p.Containers {
			line += " | " + c.Record.ID
			for _, p := range c.Processes {
				line += fmt.Sprintf(" %d", p.PID)
			}
			if c.Memory != nil {
				line += fmt.Sprintf(" %dB", *c.Memory)
			}
		}
		got = append(got, line)
	}
	if want := "a pause 60 stray 65 | c1 61 62 63 4096B | c2 64 | c0\nb | c3 70"; strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	p := tree.Pods[0].Containers[0].Processes[0]
	if p.Name != "odd) name (" || !p.Started.Equal(time.Unix(1002, 0)) || p.Memory != uint64(3*os.Getpagesize()) {
		t.Errorf("%+v", p)
	}
}

func TestProcessesThatEndWhileTheyAreReadAreLeftOut(t *testing.T) {
	for name, stat := range map[string]string{
		"empty": "", "no name": "12 S 1", "cut": "12 (x) S 1 2", "no PID": "(x) S", "a field that is no number": "12 (x) S y" + strings.Repeat(" 0", 30),
	} {
		if p, err := parseStat([]byte(stat), time.Time{}); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for _, link := range []string{"net", "net:[]", "net:[1", "net:[1]x", "socket:[1]", "time:[1]", "net:[-1]"} {
		if kind, inode, ok := parseNamespace(link); ok {
			t.Errorf("%q: %s %d", link, kind, inode)
		}
	}
}
