package pod

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// describe writes an event in a line: of what, what, and the whole pod at that moment.
func describe(podID string, e *runtimeapi.ContainerEventResponse) string {
	of := "container"
	if e.ContainerId == podID {
		of = "sandbox"
	}
	what := strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
	sandbox := "gone"
	if s := e.PodSandboxStatus; s != nil {
		sandbox = strings.TrimPrefix(s.State.String(), "SANDBOX_")
		if s.Id != podID || s.Metadata.GetName() == "" || s.CreatedAt == 0 {
			sandbox += " but incomplete"
		}
	}
	line := fmt.Sprintf("%s %s: %s", of, what, sandbox)
	for _, c := range e.ContainersStatuses {
		line += " " + strings.TrimPrefix(c.State.String(), "CONTAINER_")
	}
	if e.CreatedAt == 0 {
		line += " without time"
	}
	return line
}

// takeEvents reads n events.
func takeEvents(ctx context.Context, s *Subscription, podID func() string, n int) (lines []string, err error) {
	var got []*runtimeapi.ContainerEventResponse
	for range n {
		e, err := s.Next(ctx)
		if err != nil {
			return lines, err
		}
		got = append(got, e)
	}
	for _, e := range got {
		lines = append(lines, describe(podID(), e))
	}
	return lines, nil
}

// wholeLife is the sequence of containerd's TestContainerEvents (EVT-1).
var wholeLife = []string{
	"sandbox CREATED: READY", "sandbox STARTED: READY",
	"container CREATED: READY CREATED", "container STARTED: READY RUNNING", "container STOPPED: READY EXITED", "container DELETED: READY",
	"sandbox STOPPED: NOTREADY", "sandbox DELETED: gone",
}

func TestEveryReaderIsToldAWholeLifeInOrder(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	readers := []*Subscription{n.Subscribe(), n.Subscribe()}
	leaving := n.Subscribe()
	slow := n.Subscribe() // reads nothing until all is over
	var podID string
	lived := make(chan struct{})
	told := make([][]string, len(readers))
	var wg sync.WaitGroup
	for i, s := range readers {
		wg.Go(func() {
			defer s.Close()
			var err error
			if told[i], err = takeEvents(ctx, s, func() string { <-lived; return podID }, len(wholeLife)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if _, err := leaving.Next(ctx); err != nil {
			t.Error(err)
		}
		leaving.Close()
		leaving.Close()
		if e, err := leaving.Next(ctx); e != nil || !errs.Is(err, errs.Canceled) {
			t.Errorf("after leaving: %v, %v", e, err)
		}
	})
	podID, id := n.running("a")
	if err := errors.Join(n.StopContainer(ctx, id, time.Minute), n.RemoveContainer(ctx, id), n.RemoveContainer(ctx, id),
		n.StopPodSandbox(ctx, podID), n.StopPodSandbox(ctx, podID), n.RemovePodSandbox(ctx, podID), n.RemovePodSandbox(ctx, podID)); err != nil {
		t.Fatal(err)
	}
	close(lived)
	wg.Wait()
	late, err := takeEvents(ctx, slow, func() string { return podID }, len(wholeLife))
	if err != nil {
		t.Fatal(err)
	}
	slow.Close()
	for i, lines := range append(told, late) {
		if got, want := strings.Join(lines, "\n"), strings.Join(wholeLife, "\n"); got != want {
			t.Errorf("reader %d was told:\n%s\nwant:\n%s", i, got, want)
		}
	}
	if left := n.events.readers.Load(); left != 0 {
		t.Errorf("%d readers left", left)
	}
}

func TestEventsOfWhatFailsAndWhatEndsByItself(t *testing.T) {
	for name, c := range map[string]struct {
		live func(n *node) (podID string)
		want []string
	}{
		"a container that cannot be started has stopped": {
			func(n *node) string {
				req := sandboxRequest("a")
				podID := must[string](n.t)(n.RunPodSandbox(n.t.Context(), req))
				id := must[string](n.t)(n.CreateContainer(n.t.Context(), containerRequest(podID, req, "c")))
				n.runtime.fail = errors.New("no")
				if n.StartContainer(n.t.Context(), id) == nil {
					n.t.Error("it started")
				}
				return podID
			},
			[]string{"sandbox CREATED: READY", "sandbox STARTED: READY", "container CREATED: READY CREATED", "container STOPPED: READY EXITED"},
		},
		"one that ends before its start is answered was started first": {
			func(n *node) string {
				n.runtime.dieAtOnce = true
				podID, _ := n.running("a")
				return podID
			},
			[]string{"sandbox CREATED: READY", "sandbox STARTED: READY", "container CREATED: READY CREATED",
				"container STARTED: READY RUNNING", "container STOPPED: READY EXITED"},
		},
		"a pod whose pause ends has stopped, once": {
			func(n *node) string {
				podID := must[string](n.t)(n.RunPodSandbox(n.t.Context(), sandboxRequest("a")))
				n.runtime.end(Exit{ID: podID, Code: 1})
				if err := n.RemovePodSandbox(n.t.Context(), podID); err != nil {
					n.t.Error(err)
				}
				return podID
			},
			[]string{"sandbox CREATED: READY", "sandbox STARTED: READY", "sandbox STOPPED: NOTREADY", "sandbox DELETED: gone"},
		},
		"removing a pod tells of its container first": {
			func(n *node) string {
				podID, _ := n.running("a")
				if err := n.RemovePodSandbox(n.t.Context(), podID); err != nil {
					n.t.Error(err)
				}
				return podID
			},
			[]string{"sandbox CREATED: READY", "sandbox STARTED: READY", "container CREATED: READY CREATED", "container STARTED: READY RUNNING",
				"container STOPPED: NOTREADY EXITED", "sandbox STOPPED: NOTREADY EXITED", "container DELETED: NOTREADY", "sandbox DELETED: gone"},
		},
		"nothing is told of a pod that cannot be made": {
			func(n *node) string {
				n.network.fail = errors.New("no")
				if _, err := n.RunPodSandbox(n.t.Context(), sandboxRequest("a")); err == nil {
					n.t.Error("it was made")
				}
				return ""
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			s := n.Subscribe()
			defer s.Close()
			podID := c.live(n)
			lines, err := takeEvents(t.Context(), s, func() string { return podID }, len(c.want))
			if err != nil {
				t.Fatal(err)
			}
			n.EndEvents()
			if more, err := s.Next(t.Context()); !errs.Is(err, errs.Unavailable) {
				t.Errorf("one more: %v, %v", more, err)
			}
			if got, want := strings.Join(lines, "\n"), strings.Join(c.want, "\n"); got != want {
				t.Errorf("told:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestAReaderTooFarBehindIsEndedAndHoldsNobodyUp(t *testing.T) {
	n := newNode(t)
	podID, _ := n.running("a")
	slow, quick := n.Subscribe(), n.Subscribe()
	defer slow.Close()
	defer quick.Close()
	p := must[*Pod](t)(n.findPod(podID))
	for range eventBacklog/2 + 1 { // each weighs two: the sandbox and its container
		n.tellNow(p, podID, eventStarted)
		if _, err := quick.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := slow.Next(t.Context()); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("the slow reader: %v, %v", e, err)
	}
	if left := n.events.readers.Load(); left != 1 {
		t.Errorf("%d readers, want the quick one alone", left)
	}
}

func TestAReaderThatWaitsEndsWithItsCallOrTheDaemon(t *testing.T) {
	n := newNode(t)
	s := n.Subscribe()
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that ended: %v", err)
	}
	n.EndEvents()
	for _, s := range []*Subscription{s, n.Subscribe()} {
		if _, err := s.Next(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("after the daemon's end: %v", err)
		}
	}
}

func TestAStopIsNotToldAgainAfterARestart(t *testing.T) {
	n := newNode(t)
	podID := must[string](t)(n.RunPodSandbox(t.Context(), sandboxRequest("a")))
	if err := n.StopPodSandbox(t.Context(), podID); err != nil {
		t.Fatal(err)
	}
	n.restart(t.Context())
	s := n.Subscribe()
	defer s.Close()
	if err := errors.Join(n.StopPodSandbox(t.Context(), podID), n.RemovePodSandbox(t.Context(), podID)); err != nil {
		t.Fatal(err)
	}
	lines, err := takeEvents(t.Context(), s, func() string { return podID }, 1)
	if err != nil || lines[0] != "sandbox DELETED: gone" {
		t.Errorf("first told: %v, %v", lines, err)
	}
}

func TestNothingIsToldOfAContainerThatNobodyWasGiven(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	c := must[*Container](t)(n.anyContainer(id))
	c.pod.mu.Lock()
	c.visible = false
	c.pod.mu.Unlock()
	s := n.Subscribe()
	defer s.Close()
	n.runtime.end(Exit{ID: id, Code: 1, Finished: time.Now()})
	n.EndEvents()
	if e, err := s.Next(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("told: %v, %v", e, err)
	}
}
