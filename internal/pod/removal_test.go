package pod

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A stop that waited while the pod was removed wrote its record again: the pod came back with the next daemon.
func TestALateStopBringsNothingBack(t *testing.T) {
	n := newNode(t)
	podID, _ := n.running("a")
	p := must[*Pod](t)(n.anyPod(podID))
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	if err := n.stop(t.Context(), p); err != nil {
		t.Error(err)
	}
	n.pauseEnded(p, Exit{ID: podID})
	n.empty()
}

// The disk is full when pods are evicted to free it: none of that may need the disk.
func TestAFullDiskKeepsNothingFromStopping(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	n.records.fail(syscall.ENOSPC)
	if err := n.StopContainer(t.Context(), id, time.Minute); err != nil {
		t.Errorf("stop container: %v", err)
	}
	if err := n.StopPodSandbox(t.Context(), podID); err != nil {
		t.Errorf("stop pod: %v", err)
	}
	if s := must[*runtimeapi.PodSandboxStatusResponse](t)(n.PodSandboxStatus(t.Context(), podID, false)); s.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("pod: %v", s)
	}
	if err := n.RemovePodSandbox(t.Context(), podID); err != nil {
		t.Errorf("remove pod: %v", err)
	}
	n.empty()
	if len(n.runtime.processes) != 0 {
		t.Errorf("%d processes not forgotten", len(n.runtime.processes))
	}
}

// What the disk does not know the keeper must not forget.
func TestAnExitThatCannotBeWrittenIsKeptByTheKeeper(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	n.records.fail(syscall.ENOSPC)
	n.runtime.end(Exit{ID: id, Code: 7, Finished: time.Now()})
	n.background.Wait()
	n.records.fail(nil)
	n.restart(t.Context())
	if s := n.container(id); s.ExitCode != 7 {
		t.Errorf("after the restart: %v", s)
	}
}

// A daemon killed between writing an exit and cleaning up after it leaves that to the next one.
func TestAnExitToldAgainIsCleanedUpAfter(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	r := must[*Container](t)(n.anyContainer(id)).snapshot()
	n.Manager.Close()
	exited := n.runtime.exited
	n.runtime.exited = nil
	e := Exit{ID: id, Code: 7, Finished: time.Now()}
	n.runtime.end(e)
	n.runtime.exited = exited
	r.State, r.Exit = Exited, &e
	if err := n.records.WriteContainer(&r, nil); err != nil {
		t.Fatal(err)
	}
	n.restart(t.Context())
	n.background.Wait()
	if left, err := filepath.Glob("/sys/fs/cgroup/*" + r.Cgroup); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, held := n.runtime.processes[id]; held {
		t.Error("the keeper was not told to forget it")
	}
}

// A daemon that has ended takes in nothing any more: work it began then nobody would wait for. The next one is told again.
func TestAnExitAfterTheEndIsTheNextDaemons(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	n.Manager.Close()
	n.runtime.end(Exit{ID: id, Code: 7, Finished: time.Now()})
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the ended daemon: %v", s)
	}
	n.restart(t.Context())
	if s := n.container(id); s.ExitCode != 7 {
		t.Errorf("the next one: %v", s)
	}
}

func TestARemovalThatFailsCanBeRepeated(t *testing.T) {
	n := newNode(t)
	podID, id := n.running("a")
	n.images.refuse = errors.New("store away")
	if err := n.RemoveContainer(t.Context(), id); !errors.Is(err, n.images.refuse) {
		t.Fatalf("remove: %v", err)
	}
	if s := n.container(id); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("container: %v", s)
	}
	n.images.refuse = nil
	if err := errors.Join(n.RemoveContainer(t.Context(), id), n.RemovePodSandbox(t.Context(), podID)); err != nil {
		t.Error(err)
	}
	n.empty()
}

// Pause may end by itself in the moment a stop looks for it; that its end has not been told yet is no failure.
func TestAStopWaitsForThePausesEndToBeTold(t *testing.T) {
	n := newNode(t)
	podID := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a")))
	n.runtime.untold = make(chan struct{})
	go n.runtime.end(Exit{ID: podID, Code: 137})
	until(func() bool { return n.runtime.live() == 0 })
	stopped := make(chan error, 1)
	go func() { stopped <- n.StopPodSandbox(t.Context(), podID) }()
	until(func() bool {
		n.runtime.mu.Lock()
		defer n.runtime.mu.Unlock()
		return n.runtime.refused > 0
	})
	close(n.runtime.untold)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Unclaimed, not ready: nobody sees it and nobody can claim it.
func TestAnUnclaimedPodWhosePauseIsGoneIsRemovedAtStart(t *testing.T) {
	n := newNode(t)
	podID := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a")))
	r := must[*Pod](t)(n.anyPod(podID)).snapshot()
	r.Claimed = false
	n.Manager.Close()
	if err := n.records.WritePod(&r); err != nil {
		t.Fatal(err)
	}
	n.replaceKeeper()
	n.restart(t.Context())
	n.empty()
}
