package fault

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// faults are what can happen at a place: the lines of a failpoint's file.
var faults = []struct{ name, actions string }{
	{"an error", "error"},
	{"a panic", "panic"},
	{"the daemon's death", "kill"},
	{"the keeper's death", "kill-keeper"},
	{"the death of both", "kill-keeper\nkill"},
}

// only narrows the matrix: a part of "place, fault".
var only = flag.String("only", "", "plant only the faults whose name contains this")

// retryFlag is how long a request may take when it is repeated after a fault. A second is the aim, on a machine that does nothing else.
var retryFlag = flag.Duration("retry", 5*time.Second, "how long a repeated request may take")

// Every step of every pipeline × every fault: the request that failed succeeds when it is repeated, the bystander does not notice, and nothing is left.
func TestEveryStepSurvivesEveryFault(t *testing.T) {
	w := startWithFailpoints(t)
	b := newBystander(t, w)
	rehearsal := newLife(w, 0)
	for _, c := range rehearsal.calls() {
		if err := c.do(t.Context()); err != nil {
			t.Fatalf("without a fault: %s: %v", c.name, err)
		}
	}
	w.baseline(t)
	began, cells, slowest := time.Now(), 0, time.Duration(0)
	for _, place := range w.places(t) {
		for _, f := range faults {
			name := place + ", " + f.name
			if !strings.Contains(name, *only) {
				continue
			}
			cells++
			t.Run(name, func(t *testing.T) {
				slowest = max(slowest, w.cell(t, newLife(w, cells), place, f.actions))
				if err := b.unharmed(t.Context()); err != nil {
					t.Fatalf("the bystander: %v", err)
				}
				if said, err := w.Doctor(t.Context()); err != nil {
					t.Errorf("doctor: %v\n%s", err, said)
				}
				left, err := w.left(t.Context())
				check(t, err)
				if len(left) > 0 {
					t.Errorf("left:\n%s", strings.Join(left, "\n"))
					w.baseline(t) // told once
				}
			})
		}
	}
	b.checkLog(t)
	t.Logf("%d cells in %v; the slowest repetition took %v", cells, time.Since(began).Round(time.Second), slowest.Round(time.Millisecond))
}

// places are the steps that the program came by, in their order.
func (w *world) places(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.points, "seen"))
	check(t, err)
	all := strings.Fields(string(b))
	if len(all) < 50 {
		t.Fatalf("only %d places were seen: is a pipeline missing? %v", len(all), all)
	}
	return all
}

// cell lives one life with one fault, and returns how long the repetition took that got over it.
func (w *world) cell(t *testing.T, l *life, place, actions string) time.Duration {
	t.Helper()
	defer func() {
		if t.Failed() { // it ended in the middle; the next is to begin without it
			w.removeLives(t)
		}
	}()
	point := filepath.Join(w.points, strings.ReplaceAll(place, "/", "~"))
	check(t, os.WriteFile(point, []byte(actions), 0o600))
	var took time.Duration
	for _, c := range l.calls() {
		err := w.within(t, c)
		if err == nil {
			continue
		}
		if isWrong(err) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if strings.Contains(actions+"\n", "kill\n") && status.Code(err) == codes.Unavailable {
			<-w.Ended()
			check(t, w.Restart(t.Context()))
		}
		began := time.Now()
		if again := w.within(t, c); again != nil {
			t.Fatalf("%s: %v\nrepeated: %v", c.name, err, again)
		}
		if took = max(took, time.Since(began)); took > *retryFlag {
			t.Errorf("%s, repeated, took %v", c.name, took)
		}
	}
	if _, err := os.Stat(point); !errors.Is(err, os.ErrNotExist) {
		os.Remove(point)
		t.Errorf("this life did not come by: the fault was not planted")
	}
	return took
}

// removeLives removes every pod but the bystander.
func (w *world) removeLives(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if !w.Running() {
		check(t, w.Restart(ctx))
	}
	pods, err := w.CRI.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	check(t, err)
	for _, p := range pods.GetItems() {
		if strings.HasPrefix(p.GetMetadata().GetName(), "life-") {
			if err := w.CRI.RemovePod(ctx, p.GetId()); err != nil {
				t.Errorf("remove what is left of it: %v", err)
			}
		}
	}
}

// within makes a call that may not hang.
func (w *world) within(t *testing.T, c call) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := c.do(ctx)
	if ctx.Err() != nil {
		return wrong{fmt.Errorf("hangs: %w", err)}
	}
	return err
}
