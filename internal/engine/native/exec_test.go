package native_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// exec launches one more process in a container.
func (p *pod) exec(in *process, s *specs.Spec, tty bool, args ...string) *process {
	p.t.Helper()
	plan, err := p.Exec(context.Background(), &engine.Exec{Spec: s, Process: spec.Process(s, append([]string{"app"}, args...), tty), Init: in.pidfd})
	if err != nil {
		p.t.Fatal(err)
	}
	return p.launchPlan(plan)
}

// pelagos #332: an exec that was in the host's network. Every namespace is the container's.
func TestExecIsWhereItsContainerIs(t *testing.T) {
	for _, c := range []struct {
		name    string
		sandbox func(*engine.Sandbox)
		request func(*request)
	}{
		{"with a PID namespace of its own", nil, func(*request) {}},
		{"in the pod's PID namespace", func(s *engine.Sandbox) { s.SharedPID = true }, func(*request) {}},
		{"in the host's PID namespace", func(s *engine.Sandbox) { s.HostPID = true }, func(*request) {}},
		{"with the host's network and IPC", func(s *engine.Sandbox) { s.HostNetwork, s.HostIPC, s.Hostname = true, true, "" }, func(*request) {}},
		{"privileged, in the host's cgroup namespace", nil, func(r *request) { r.security().Privileged = true }},
		{"of another user, with a filter and no_new_privs", nil, func(r *request) {
			r.input.Identity = spec.Identity{UID: 1000, GID: 1000, Groups: []uint32{1000, 5}}
			r.security().NoNewPrivs, r.input.Seccomp = true, defaultProfile(t)
		}},
		{"of another user, with a filter and without no_new_privs", nil, func(r *request) {
			r.input.Identity = spec.Identity{UID: 1000, GID: 1000}
			r.input.Seccomp = defaultProfile(t)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newNode(t).pod(c.sandbox)
			r := p.request("ready", "wait")
			c.request(r)
			r.input.Config.WorkingDir = "/etc"
			first, s := p.start(r)
			first.await()
			out := p.exec(first, s, false, "ns", "cwd", "fds", "umask", "cat=/proc/self/status").output()
			for _, kind := range []string{"net", "ipc", "uts", "mnt", "pid", "cgroup"} {
				wants(t, out, "ns "+nsLink(t, first.pid, kind))
			}
			wants(t, out, "cwd /etc", "umask 22")
			if n := strings.Count(out, "fd "); n != 3 {
				t.Errorf("%d descriptors:\n%s", n, out)
			}
			init, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", first.pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, field := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"} {
				if got, want := status(out, field), status(string(init), field); got != want {
					t.Errorf("%s is %q, the container's %q", field, got, want)
				}
			}
		})
	}
}

func TestSharedPIDNamespaceShowsThePodsProcesses(t *testing.T) {
	for name, share := range map[string]bool{"the pod shares it": true, "only the containers ask for it": false} {
		t.Run(name, func(t *testing.T) { sharedPID(t, share) })
	}
}

func sharedPID(t *testing.T, share bool) {
	p := newNode(t).pod(func(s *engine.Sandbox) { s.SharedPID = share })
	request := func(args ...string) *request {
		r := p.request(args...)
		r.security().NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		return r
	}
	first, _ := p.start(request("ready", "wait"))
	first.await()
	second, _ := p.start(request("pid", "cat=/proc/1/comm", "cat=/proc/2/comm", "cat=/proc/3/comm"))
	out := second.output()
	if !strings.Contains(out, "fermata-pause\n") || strings.Contains(out, "pid 1\n") || strings.Count(out, "app\n") < 2 {
		t.Errorf("output:\n%s", out)
	}
}

func TestTargetPIDNamespaceShowsTheOtherContainer(t *testing.T) {
	n := newNode(t)
	if !n.Features().Facilities["procfs of another PID namespace"] {
		t.Fatal("this kernel cannot; the tests run on one that can")
	}
	p := n.pod(nil)
	first, _ := p.start(p.request("ready", "wait"))
	first.await()
	target, err := linux.NamespaceOf(first.pid, "pid")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	r := p.request("pid", "cat=/proc/1/comm")
	r.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "c1"}
	r.plan = func(c *engine.Container) { c.TargetPID = target }
	debug, _ := p.start(r)
	out := debug.output()
	if !strings.HasPrefix(out, "pid ") || strings.HasPrefix(out, "pid 1\n") || !strings.HasSuffix(out, "app\n") {
		t.Errorf("output:\n%s", out)
	}
}

func TestNamespaceThatWasNotGivenIsNeverTheHosts(t *testing.T) {
	p := newNode(t).pod(func(s *engine.Sandbox) { s.SharedPID = true })
	for _, drop := range []func(*engine.Namespaces){
		func(n *engine.Namespaces) { n.Net = nil }, func(n *engine.Namespaces) { n.IPC = nil }, func(n *engine.Namespaces) { n.UTS = nil },
		func(n *engine.Namespaces) { n.PID = nil }, func(n *engine.Namespaces) { n.Mount = nil },
	} {
		r := p.request()
		r.plan = func(c *engine.Container) { drop(&c.Namespaces) }
		if plan, _, err := p.container(r); err == nil {
			plan.Close()
			t.Error("planned without a namespace of the pod")
		}
	}
}

func TestExecWithTerminalOfTheContainer(t *testing.T) {
	p := newNode(t).pod(nil)
	first, s := p.start(p.request("ready", "wait"))
	first.await()
	proc := p.exec(first, s, true, "tty", "env")
	out := strings.ReplaceAll(proc.output(), "\r", "")
	wants(t, out, "tty 0 /dev/pts/0 <nil>", "tty 2 /dev/pts/0 <nil>", "TERM=xterm")
}

func TestExecOfWhatIsNotThere(t *testing.T) {
	p := newNode(t).pod(nil)
	first, s := p.start(p.request("ready", "wait"))
	first.await()
	plan, err := p.Exec(t.Context(), &engine.Exec{Spec: s, Process: spec.Process(s, []string{"nothing"}, false), Init: first.pidfd})
	if err != nil {
		t.Fatal(err)
	}
	proc := p.launchPlan(plan)
	if err := proc.failure(); err == nil || err.Error() != `exec "nothing": executable file not found in $PATH` {
		t.Errorf("failure %v", err)
	}
}

func TestExecInAContainerThatHasEnded(t *testing.T) {
	p := newNode(t).pod(nil)
	first, s := p.start(p.request("ready", "wait"))
	first.await()
	plan, err := p.Exec(t.Context(), &engine.Exec{Spec: s, Process: spec.Process(s, []string{"app"}, false), Init: first.pidfd})
	if err != nil {
		t.Fatal(err)
	}
	first.output() // ends its input, and so the container
	if err := p.launchPlan(plan).failure(); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "the container has ended") {
		t.Errorf("failure %v", err)
	}
}

// CVE-2016-9962, R1: a container that shares its PID namespace watches every process that appears there while execs run. None has more
// capabilities than itself, and none a descriptor beside stdio and the report pipe.
func TestNoExecIsEverMorePrivilegedThanItsContainer(t *testing.T) {
	p := newNode(t).pod(func(s *engine.Sandbox) { s.SharedPID = true })
	r := p.request("ready", "watch")
	r.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
	watcher, s := p.start(r)
	watcher.await()
	for range 200 {
		proc := p.exec(watcher, s, false)
		if err := proc.failure(); err != nil {
			t.Fatal(err)
		}
		proc.end()
	}
	out := watcher.output()
	if !strings.Contains(out, "watched") || strings.Contains(out, "watched 0 ") || strings.Contains(out, "bad") {
		t.Errorf("it saw:\n%s", out)
	}
}
