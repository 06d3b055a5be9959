package pod

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"fermata/internal/errs"
)

// Who asks after the last look at the waiters must not be given what is about to be abandoned: it starts anew, finds it and claims it.
func TestNobodyIsAnsweredWithWhatIsAbandoned(t *testing.T) {
	for range 200 {
		var f flights
		giveUp, cancel := context.WithCancel(t.Context())
		finish := make(chan struct{})
		var claims atomic.Int32
		ops := flightOps{
			create:  func(context.Context, func() bool) (string, error) { <-finish; return "id", nil },
			claim:   func(string) error { claims.Add(1); return nil },
			abandon: func(string) {},
		}
		first := make(chan error, 1)
		go func() { _, err := f.join(giveUp, "a", "request", ops); first <- err }()
		for f.aloft() == 0 { // nothing tells
			runtime.Gosched()
		}
		cancel()
		<-first
		second := make(chan error, 1)
		go close(finish)
		go func() { _, err := f.join(t.Context(), "a", "request", ops); second <- err }()
		if err := <-second; err != nil || claims.Load() == 0 {
			t.Fatalf("answered with %v after %d claims", err, claims.Load())
		}
		f.wait()
	}
}

func (f *flights) aloft() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.air)
}

// A pod whose claim cannot be written was given to nobody: it must not stay, invisible, for ever.
func TestAClaimThatCannotBeWrittenAbandonsThePod(t *testing.T) {
	var f flights
	abandoned := ""
	_, err := f.join(t.Context(), "a", "request", flightOps{
		create:  func(context.Context, func() bool) (string, error) { return "id", nil },
		claim:   func(string) error { return syscall.ENOSPC },
		abandon: func(id string) { abandoned = id },
	})
	f.wait()
	if !errors.Is(err, syscall.ENOSPC) || abandoned != "id" {
		t.Errorf("error %v, abandoned %q", err, abandoned)
	}
}

func TestAPanicCostsOneCreation(t *testing.T) {
	var f flights
	_, err := f.join(t.Context(), "a", "request", flightOps{create: func(context.Context, func() bool) (string, error) { panic("boom") }})
	f.wait()
	if !errs.Is(err, errs.Internal) || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error %v", err)
	}
}

// The record's claim is written a moment before the caller is found gone: such a pod is as invisible as any unclaimed one, and in nobody's way.
func TestAnotherRequestReplacesAGivenUpPodWhoseClaimWasWritten(t *testing.T) {
	n := newNode(t)
	id := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a")))
	p := must[*Pod](t)(n.anyPod(id))
	p.visible = false
	other := sandboxRequest("a")
	other.Config.Hostname = "other"
	if got, err := n.RunPodSandbox(t.Context(), other); err != nil || got == id {
		t.Errorf("another request: %q, %v", got, err)
	}
}

// The removal of what nobody claimed and a late claim: one of them wins, and a caller is never given what goes away.
func TestWhatIsBeingAbandonedCannotBeClaimed(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	podID := must[string](t)(n.RunPodSandbox(t.Context(), req))
	id := must[string](t)(n.CreateContainer(t.Context(), containerRequest(podID, req, "c")))
	p, c := must[*Pod](t)(n.anyPod(podID)), must[*Container](t)(n.anyContainer(id))
	if err := errors.Join(n.abandonContainer(t.Context(), id), n.abandonPod(t.Context(), podID)); err != nil || len(n.allPods()) != 1 || len(n.containers) != 1 {
		t.Fatalf("claimed ones were removed: %v", err)
	}
	p.visible, c.visible = false, false
	p.op <- struct{}{} // the removal has begun and waits
	c.op <- struct{}{}
	done := make(chan error, 2)
	go func() { done <- n.abandonContainer(t.Context(), id) }()
	go func() { done <- n.abandonPod(t.Context(), podID) }()
	for !p.isAbandoned() || !c.isAbandoned() { // nothing tells
		runtime.Gosched()
	}
	if err := n.claimContainer(id); !errs.Is(err, errs.Unavailable) {
		t.Errorf("claim of the container: %v", err)
	}
	if err := n.claimPod(podID); !errs.Is(err, errs.Unavailable) {
		t.Errorf("claim of the pod: %v", err)
	}
	c.op.release()
	p.op.release()
	if err := errors.Join(<-done, <-done); err != nil {
		t.Error(err)
	}
	n.empty()
}
