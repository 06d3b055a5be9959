package pod

import (
	"context"
	"runtime"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// until waits for something that nothing tells.
func until(ready func() bool) {
	for !ready() {
		runtime.Gosched()
	}
}

// replaceKeeper is what a killed keeper leaves: it knew of these processes, the next one does not.
func (n *node) replaceKeeper() {
	n.runtime.mu.Lock()
	defer n.runtime.mu.Unlock()
	clear(n.runtime.processes)
	n.runtime.mute = false
}

func TestWhatANewKeeperDoesNotHoldHasEnded(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	exec := make(chan error, 1)
	go func() { _, err := n.ExecSync(t.Context(), id, []string{"sleep"}, 0); exec <- err }()
	until(func() bool { return n.runtime.live() == 3 })
	n.replaceKeeper()
	if err := n.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-exec; !errs.Is(err, errs.Unavailable) {
		t.Errorf("a command nobody will ever hear of: %v", err)
	}
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.Reason != "Unknown" || s.ExitCode != 255 {
		t.Errorf("container: %v", s)
	}
	if s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), podID, false)); s.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("pod: %v", s)
	}
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

// The list is of a moment; what was launched by the new keeper since is not in it and must not be taken for lost.
func TestWhatWasLaunchedSinceTheListIsNotLost(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	n.runtime.stale = true
	if err := n.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container: %v", s)
	}
	if s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), podID, false)); s.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("pod: %v", s)
	}
}

func TestAnExecOfTheNewKeepersIsNoStray(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	ctx, cancel := context.WithCancel(t.Context())
	exec := make(chan error, 1)
	go func() { _, err := n.ExecSync(ctx, id, []string{"sleep"}, 0); exec <- err }()
	until(func() bool { return n.runtime.live() == 3 })
	if err := n.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.runtime.live() != 3 {
		t.Error("the command was killed")
	}
	n.runtime.killAll()
	if err := <-exec; err != nil {
		t.Error(err)
	}
	cancel()
}

// A stop that waits for an end which the killed keeper told nobody must not wait, and hold the pod, until its caller loses patience.
func TestAStopUnderWayEndsWithTheKeeperThatWasAsked(t *testing.T) {
	n := newNode(t)
	podID, _ := n.running("a")
	n.runtime.mu.Lock()
	n.runtime.mute = true
	n.runtime.mu.Unlock()
	stopped := make(chan error, 1)
	go func() { stopped <- n.StopPodSandbox(t.Context(), podID) }()
	until(func() bool { return n.runtime.live() == 1 }) // the container was killed, pause not yet
	n.replaceKeeper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := n.Resync(ctx); err != nil {
		t.Error(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Error(err)
	}
	n.empty()
}
