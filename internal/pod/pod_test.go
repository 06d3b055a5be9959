package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

func sandboxRequest(name string) *runtimeapi.RunPodSandboxRequest {
	return &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}}
}

func containerRequest(podID string, sandbox *runtimeapi.RunPodSandboxRequest, name string) *runtimeapi.CreateContainerRequest {
	return &runtimeapi.CreateContainerRequest{PodSandboxId: podID, SandboxConfig: sandbox.Config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "busybox"},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// running brings up a pod with one container that runs.
func (n *node) running(name string) (podID, containerID string) {
	n.t.Helper()
	ctx := n.t.Context()
	req := sandboxRequest(name)
	podID = must[string](n.t)(n.RunPodSandbox(ctx, req))
	containerID = must[string](n.t)(n.CreateContainer(ctx, containerRequest(podID, req, "c")))
	if err := n.StartContainer(ctx, containerID); err != nil {
		n.t.Fatal(err)
	}
	return podID, containerID
}

// empty fails the test if anything is left after all pods were removed.
func (n *node) empty() {
	n.t.Helper()
	for what, left := range map[string]int{
		"processes": n.runtime.live(), "leases": n.network.count(), "images held": len(n.images.held),
		"pods": len(n.allPods()), "containers": len(n.containers),
	} {
		if left != 0 {
			n.t.Errorf("%d %s left", left, what)
		}
	}
	for _, dir := range []string{n.options.Root, n.options.State} {
		if left, err := filepath.Glob(filepath.Join(dir, "pods", "*")); err != nil || len(left) != 0 {
			n.t.Errorf("directories left: %v, %v", left, err)
		}
	}
}

func (n *node) container(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	return must[*runtimeapi.ContainerStatusResponse](n.t)(n.ContainerStatus(n.t.Context(), id, false)).Status
}

func TestNamesThatReadTheSameJoinedAreDifferentPods(t *testing.T) {
	n := newNode(t)
	a, b := sandboxRequest("a"), sandboxRequest("a")
	a.Config.Metadata.Name, a.Config.Metadata.Namespace = "x_y", "z"
	b.Config.Metadata.Name, b.Config.Metadata.Namespace = "x", "y_z"
	first := must[string](t)(n.RunPodSandbox(t.Context(), a))
	if second := must[string](t)(n.RunPodSandbox(t.Context(), b)); second == first {
		t.Error("two pods became one")
	}
}

// Host tools read the verbose answer's config as containerd writes it: with the proto's own field names.
func TestVerboseConfigHasTheProtosNames(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	req.Config.LogDirectory = t.TempDir()
	id := must[string](t)(n.RunPodSandbox(t.Context(), req))
	s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), id, true))
	if !strings.Contains(s.Info["info"], `"log_directory"`) {
		t.Errorf("info %s", s.Info["info"])
	}
}

func TestALifeLeavesNothing(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || s.StartedAt == 0 || s.LogPath == "" {
		t.Errorf("running container: %v", s)
	}
	if err := n.StopContainer(t.Context(), id, time.Minute); err != nil {
		t.Fatal(err)
	}
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 143 || s.Reason != "Error" || s.FinishedAt < s.StartedAt {
		t.Errorf("stopped container: %v", s)
	}
	for range 2 { // each may be repeated
		if err := errors.Join(n.RemoveContainer(t.Context(), id), n.StopPodSandbox(t.Context(), podID), n.RemovePodSandbox(t.Context(), podID)); err != nil {
			t.Fatal(err)
		}
	}
	n.empty()
}

func TestEqualRequestsGiveOnePod(t *testing.T) {
	n := newNode(t)
	n.network.gate = make(chan struct{})
	var ids [8]string
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i], _ = n.RunPodSandbox(t.Context(), sandboxRequest("a")) })
	}
	close(n.network.gate)
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("IDs of equal requests: %q", ids)
		}
	}
	if again := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a"))); again != ids[0] {
		t.Errorf("the same request later made %s, not %s", again, ids[0])
	}
	other := sandboxRequest("a")
	other.Config.Hostname = "other"
	if _, err := n.RunPodSandbox(t.Context(), other); !errs.Is(err, errs.AlreadyExists) || !strings.Contains(err.Error(), ids[0]) {
		t.Errorf("another request under the same name: %v", err)
	}
}

// A caller that gives up must neither lose the work nor make it anybody's who did not ask for it (containerd #4604).
func TestAGivenUpPodIsInvisibleUntilClaimed(t *testing.T) {
	n := newNode(t)
	n.network.gate = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() { _, err := n.RunPodSandbox(ctx, sandboxRequest("a")); gaveUp <- err }()
	<-n.network.entered // it is in the middle
	cancel()
	if err := <-gaveUp; !errs.Is(err, errs.Canceled) {
		t.Fatalf("gave up with %v", err)
	}
	close(n.network.gate)
	n.flights.wait()
	all := n.allPods()
	if len(all) != 1 {
		t.Fatalf("%d pods", len(all))
	}
	id := all[0].id
	if list := n.ListPodSandboxes(nil); len(list) != 0 {
		t.Errorf("an unclaimed pod is listed: %v", list)
	}
	if _, err := n.PodSandboxStatus(t.Context(), id, false); !errs.Is(err, errs.NotFound) {
		t.Errorf("status of an unclaimed pod: %v", err)
	}
	if got := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a"))); got != id {
		t.Errorf("claimed %s, want %s", got, id)
	}
	if list := n.ListPodSandboxes(nil); len(list) != 1 {
		t.Errorf("a claimed pod is not listed")
	}
	if err := n.RemovePodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestAnotherRequestReplacesAnUnclaimedPod(t *testing.T) {
	n := newNode(t)
	id := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a")))
	p := must[*Pod](t)(n.anyPod(id))
	p.record.Claimed, p.visible = false, false
	other := sandboxRequest("a")
	other.Config.Hostname = "other"
	if got := must[string](t)(n.RunPodSandbox(t.Context(), other)); got == id {
		t.Error("another request got the unclaimed pod")
	}
	if len(n.allPods()) != 1 {
		t.Errorf("%d pods, the unclaimed one should be gone", len(n.allPods()))
	}
}

func TestAFailedStepUndoesAllBeforeIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		break_ func(*node)
	}{
		{"network", func(n *node) { n.network.fail = errors.New("no IP left") }},
		{"pause", func(n *node) { n.runtime.fail = errors.New("no memory") }},
		{"record", func(n *node) { n.records.fail(syscall.ENOSPC) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			c.break_(n)
			_, err := n.RunPodSandbox(t.Context(), sandboxRequest("a"))
			if err == nil || !strings.Contains(err.Error(), c.name) {
				t.Errorf("error %v does not name the step %q", err, c.name)
			}
			n.records.fail(nil)
			n.network.fail, n.runtime.fail = nil, nil
			n.empty()
			if _, err := n.RunPodSandbox(t.Context(), sandboxRequest("a")); err != nil {
				t.Errorf("the retry: %v", err)
			}
		})
	}
}

func TestARollbackThatFailsLeavesThePodForTheKubelet(t *testing.T) {
	n := newNode(t)
	n.network.fail, n.network.refuse = errors.New("no IP left"), errors.New("plugin gone")
	if _, err := n.RunPodSandbox(t.Context(), sandboxRequest("a")); err == nil || !strings.Contains(err.Error(), "plugin gone") {
		t.Errorf("error %v does not say what could not be undone", err)
	}
	n.network.refuse = nil
	list := n.ListPodSandboxes(nil)
	if len(list) != 1 || list[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("list: %v", list)
	}
	if err := n.RemovePodSandbox(t.Context(), list[0].Id); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestAFailingDetachDoesNotKeepAPod(t *testing.T) {
	n := newNode(t)
	podID, _ := n.running("a")
	n.network.refuse = errors.New("plugin gone")
	if err := errors.Join(n.StopPodSandbox(t.Context(), podID), n.RemovePodSandbox(t.Context(), podID)); err != nil {
		t.Errorf("stop and remove: %v", err)
	}
	if n.runtime.live() != 0 || len(n.ListPodSandboxes(nil)) != 0 {
		t.Error("something of the pod is left")
	}
	if n.HoldsNetwork(podID) {
		t.Error("a removed pod still holds its network: reconciliation would never free it")
	}
}

func TestAContainerThatCannotStartHasExited(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	podID := must[string](t)(n.RunPodSandbox(t.Context(), req))
	id := must[string](t)(n.CreateContainer(t.Context(), containerRequest(podID, req, "c")))
	n.runtime.fail = errors.New(`exec "x": executable file not found in $PATH`)
	if err := n.StartContainer(t.Context(), id); err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Errorf("start: %v", err)
	}
	s := n.container(id)
	if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" || s.StartedAt != 0 || s.FinishedAt == 0 ||
		!strings.Contains(s.Message, "not found in $PATH") {
		t.Errorf("status %v", s)
	}
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestAnExitQuickerThanTheStartsAnswerIsNotLost(t *testing.T) {
	n := newNode(t)
	n.runtime.dieAtOnce = true
	podID, id := n.running("a")
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 3 {
		t.Errorf("status %v", s)
	}
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestStopSendsItsSignalOnceAndAShorterGraceShortens(t *testing.T) {
	n := newNode(t)
	n.runtime.deaf = true
	_, id := n.running("a")
	first := make(chan error, 1)
	go func() { first <- n.StopContainer(t.Context(), id, time.Hour) }()
	if err := n.StopContainer(t.Context(), id, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	terms := 0
	for _, s := range n.runtime.signals {
		if strings.HasSuffix(s, " 15") {
			terms++
		}
	}
	if terms != 1 {
		t.Errorf("SIGTERM was sent %d times: %v", terms, n.runtime.signals)
	}
}

func TestACallerThatGivesUpStoppingKillsNothing(t *testing.T) {
	n := newNode(t)
	n.runtime.deaf = true
	_, id := n.running("a")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := n.StopContainer(ctx, id, time.Hour); !errs.Is(err, errs.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("state %v", s.State)
	}
}

func TestExecSync(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	got, err := n.ExecSync(t.Context(), id, []string{"echo", "hello"}, 0)
	if err != nil || string(got.Stdout) != "hello\n" || got.ExitCode != 0 {
		t.Errorf("exec: %v, %v", got, err)
	}
	if _, err := n.ExecSync(t.Context(), id, nil, 0); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("no command: %v", err)
	}
	if _, err := n.ExecSync(t.Context(), "none", []string{"x"}, 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("no container: %v", err)
	}
}

func TestRestartFindsEverything(t *testing.T) {
	n := newNode(t)
	podID, runs := n.running("a")
	_, ended := n.running("b")
	_, lost := n.running("c")
	n.Manager.Close()
	exited := n.runtime.exited
	n.runtime.exited = nil // nobody hears what happens now
	n.runtime.end(Exit{ID: ended, Code: 7, Finished: time.Now()})
	n.runtime.mu.Lock()
	delete(n.runtime.processes, lost)
	n.runtime.mu.Unlock()
	n.runtime.exited = exited
	n.restart(t.Context())

	if s := n.container(runs); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the one that runs: %v", s)
	}
	if s := n.container(ended); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 7 {
		t.Errorf("the one that ended meanwhile: %v", s)
	}
	if s := n.container(lost); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 255 || s.Reason != "Unknown" || s.Message == "" {
		t.Errorf("the one nobody saw end: %v", s)
	}
	if len(n.images.held) != 3 {
		t.Errorf("images held after the restart: %v", n.images.held)
	}
	if s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), podID, true)); s.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY ||
		s.Status.Network.Ip == "" {
		t.Errorf("pod after the restart: %v", s)
	}
	if again := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a"))); again != podID {
		t.Errorf("the same request after the restart made %s, not %s", again, podID)
	}
	for _, p := range n.ListPodSandboxes(nil) {
		if err := n.RemovePodSandbox(t.Context(), p.Id); err != nil {
			t.Fatal(err)
		}
	}
	n.empty()
}

// Killed between writing that it starts and asking for the launch: the keeper keeps all it launched, so this was not, and the kubelet's repetition
// must start it.
func TestAStartThatNeverBeganCanBeRepeatedAfterARestart(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	podID := must[string](t)(n.RunPodSandbox(t.Context(), req))
	id := must[string](t)(n.CreateContainer(t.Context(), containerRequest(podID, req, "c")))
	c := must[*Container](t)(n.anyContainer(id))
	half := c.snapshot()
	half.State = Starting
	if err := n.records.WriteContainer(&half, nil); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(n.containerDir(&half), "work", "work", "incompat", "volatile") // what a volatile overlay leaves
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	n.restart(t.Context())
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Fatalf("state %v, reason %q", s.State, s.Reason)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the overlay's work directory was not made anew: %v", err)
	}
	if err := n.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestRestartUndoesWhatWasHalfMade(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	n.Manager.Close()
	half := PodRecord{
		ID: newID(), State: Preparing, Config: wrap(sandboxRequest("half").Config), Created: time.Now(), BootID: "boot",
		Cgroup: filepath.Join(n.options.CgroupParent, "half"), Attached: true,
	}
	n.network.leases[half.ID] = n.network.leases[podID]
	if err := n.records.WritePod(&half); err != nil {
		t.Fatal(err)
	}
	proc := must[*Process](t)(n.runtime.start(half.ID))
	proc.Pidfd.Close()
	n.restart(t.Context())
	if len(n.allPods()) != 1 || n.network.count() != 1 {
		t.Errorf("%d pods, %d leases; the half-made pod should be gone", len(n.allPods()), n.network.count())
	}
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("its neighbour: %v", s)
	}
}

func TestAnotherPauseTakesThePlaceOfOneThatEnded(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	status := func() (runtimeapi.PodSandboxState, string) {
		s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), podID, true))
		return s.Status.State, s.Info["info"]
	}
	first := must[*Pod](t)(n.anyPod(podID)).snapshot().Pause.PID
	killed := Exit{ID: podID, PID: first, Code: 137, Signal: syscall.SIGKILL, Finished: time.Now()}
	n.runtime.end(killed)
	until(func() bool { _, info := status(); return strings.Contains(info, "signal 9") })
	if state, info := status(); state != runtimeapi.PodSandboxState_SANDBOX_READY || !strings.Contains(info, "was replaced") {
		t.Errorf("the pod is %v: %s", state, info)
	}
	second := must[*Pod](t)(n.anyPod(podID)).snapshot().Pause.PID
	if second == first {
		t.Error("the record names the pause that ended")
	}
	n.Exited(killed) // told again, which says nothing of the second
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container: %v", s)
	}
	n.runtime.fail = errors.New("no more processes")
	n.runtime.end(Exit{ID: podID, PID: second, Code: 137, Signal: syscall.SIGKILL, OOMKilled: true, Finished: time.Now()})
	until(func() bool { state, _ := status(); return state == runtimeapi.PodSandboxState_SANDBOX_NOTREADY })
	if _, info := status(); !strings.Contains(info, "for want of memory") || !strings.Contains(info, "no more processes") {
		t.Errorf("it says %s", info)
	}
	n.runtime.fail = nil
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Error(err)
	}
	n.empty()
}

func TestAPauseThatEndedWhileNoDaemonRanIsReplaced(t *testing.T) {
	n := newNode(t)
	podID, _ := n.running("a")
	n.Manager.Close()
	n.runtime.end(Exit{ID: podID, PID: must[*Pod](t)(n.anyPod(podID)).snapshot().Pause.PID, Code: 137, Signal: syscall.SIGKILL, Finished: time.Now()})
	n.restart(t.Context())
	until(func() bool {
		s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), podID, true))
		return s.Status.State == runtimeapi.PodSandboxState_SANDBOX_READY && strings.Contains(s.Info["info"], "was replaced")
	})
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Error(err)
	}
	n.empty()
}

func TestAPodWithASharedPIDNamespaceIsNotReadyWithoutItsPauseAndSaysWhy(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	req.Config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	podID := must[string](t)(n.RunPodSandbox(t.Context(), req))
	n.runtime.end(Exit{ID: podID, Code: 137, Signal: syscall.SIGKILL})
	s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), podID, true))
	if s.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || !strings.Contains(s.Info["info"], "signal 9") {
		t.Errorf("status %v", s)
	}
}

func TestFindByPrefix(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	if _, err := n.PodSandboxStatus(t.Context(), podID[:13], false); err != nil {
		t.Error(err)
	}
	if _, err := n.ContainerStatus(t.Context(), id[:13], false); err != nil {
		t.Error(err)
	}
	if _, err := n.ContainerStatus(t.Context(), "", false); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("an empty ID: %v", err)
	}
}

func TestBadRequestsNameTheirFieldAndChangeNothing(t *testing.T) {
	n := newNode(t)
	change := func(f func(*runtimeapi.RunPodSandboxRequest)) *runtimeapi.RunPodSandboxRequest {
		r := sandboxRequest("a")
		f(r)
		return r
	}
	for _, c := range []struct {
		name, field string
		req         *runtimeapi.RunPodSandboxRequest
	}{
		{"nothing", "config", &runtimeapi.RunPodSandboxRequest{}},
		{"no metadata", "config.metadata", change(func(r *runtimeapi.RunPodSandboxRequest) { r.Config.Metadata = nil })},
		{"no uid", "uid", change(func(r *runtimeapi.RunPodSandboxRequest) { r.Config.Metadata.Uid = "" })},
		{"an unknown handler", "runtime_handler", change(func(r *runtimeapi.RunPodSandboxRequest) { r.RuntimeHandler = "x" })},
		{"a relative log directory", "log_directory", change(func(r *runtimeapi.RunPodSandboxRequest) { r.Config.LogDirectory = "x" })},
		{"a cgroup parent that leaves the tree", "cgroup_parent", change(func(r *runtimeapi.RunPodSandboxRequest) { r.Config.Linux.CgroupParent = "/a/../../b" })},
		{"a sysctl of the node's", "kernel.core_pattern", change(func(r *runtimeapi.RunPodSandboxRequest) {
			r.Config.Linux.Sysctls = map[string]string{"kernel.core_pattern": "|/x"}
		})},
		{"a group without a user", "run_as_group", change(func(r *runtimeapi.RunPodSandboxRequest) {
			r.Config.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.RunPodSandbox(t.Context(), c.req)
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.field) {
				t.Errorf("error %v of kind %v, want one that names %q", err, errs.KindOf(err), c.field)
			}
		})
	}
	n.empty()
	if _, err := os.Stat(filepath.Join(n.options.Root, "pods")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("refused requests made directories: %v", err)
	}
}
