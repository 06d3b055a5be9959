// Package e2e tests the program people run, bin/fermata, through the interfaces they use: CRI, crictl, files and processes. Every test
// has a daemon of its own, and at its end nothing of its pods is left on the machine.
//
// The same tests run in virtual machines with other kernels: see test/kernels.
package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
	"fermata/internal/testkit/leak"
	"fermata/internal/testkit/machine"
	"fermata/internal/testkit/node"
)

func TestMain(m *testing.M) { leak.Main(m) }

// world is a test's daemon and how the machine looked before its pods.
type world struct {
	*node.Node
	before *machine.Snapshot
}

// start runs a daemon of the test's own with busybox pulled. At the test's end its pods are removed, and what they left fails the test.
func start(t *testing.T) *world {
	t.Helper()
	registry, err := images.Serve(t.Context())
	check(t, err)
	t.Cleanup(func() { registry.Close() })
	dir, err := os.MkdirTemp("", "e2e-") // short, for sockets' sake
	check(t, err)
	certs := filepath.Join(dir, "certs.d")
	check(t, registry.Mirrors(certs))
	runtime := node.Fermata
	if os.Getenv("FERMATA_TEST_RUNTIME") == "containerd" { // proves the tests themselves
		runtime = node.Containerd
	}
	n, err := runtime(t.Context(), node.Options{Dir: dir, Registries: certs, Name: "ee"})
	check(t, err)
	w := &world{Node: n}
	t.Cleanup(func() { w.end(t) })
	_, err = n.CRI.Pull(t.Context(), images.Busybox)
	check(t, err)
	// One pod's life first: the bridge, the table and the cgroup that it brings stay for the next.
	id, err := n.CRI.RunPod(t.Context(), cri.PodConfig("first", ""))
	check(t, err)
	check(t, n.CRI.RemovePod(t.Context(), id))
	w.baseline(t)
	return w
}

// baseline takes how the machine looks now as what it shall look like at the end.
func (w *world) baseline(t *testing.T) {
	t.Helper()
	var err error
	w.before, err = machine.Take(w.Scope())
	check(t, err)
}

// end removes the pods, looks for what they left, ends the daemon and looks again.
func (w *world) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if !w.Running() { // a test failed between killing and starting again
		if err := w.Restart(ctx); err != nil {
			t.Errorf("start again: %v", err)
		}
	}
	if w.Kind == "fermata" {
		if said, err := w.Doctor(ctx); err != nil {
			t.Errorf("doctor: %v\n%s", err, said)
		}
	}
	if w.before != nil {
		w.checkNothingLeft(ctx, t)
	}
	if err := w.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	if t.Failed() {
		log, _ := os.ReadFile(w.Log)
		t.Logf("the daemon's log ends:\n%s", log[max(0, len(log)-6000):])
	}
	if w.Kind == "fermata" {
		checkNothingAtAll(t, w.Node)
		if found, err := w.Sweep(); err != nil || len(found) > 0 {
			t.Errorf("swept away after the daemon's end: %q (%v)", found, err)
		}
	}
	os.RemoveAll(w.Dir)
}

func (w *world) checkNothingLeft(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := errors.Join(w.before.Accept(w.PID()), w.before.Accept(w.keeper()), w.before.Note()); err != nil {
		t.Errorf("look at the machine: %v", err)
	}
	if err := w.CRI.RemoveAll(ctx); err != nil {
		t.Errorf("remove all pods: %v", err)
	}
	left, err := w.before.Left(ctx)
	if err != nil {
		t.Errorf("look at the machine: %v", err)
	}
	if len(left) != 0 {
		t.Errorf("left on the machine:\n%s", strings.Join(left, "\n"))
	}
}

// checkNothingAtAll looks after the daemon's and the keeper's end: only files may remain.
func checkNothingAtAll(t *testing.T, n *node.Node) {
	t.Helper()
	scope := n.Scope()
	scope.Dirs = []string{n.Dir + "/none"} // processes and mounts below, but no files
	empty, err := machine.Take(machine.Scope{Dirs: []string{n.Dir + "/none"}})
	check(t, err)
	now, err := machine.Take(scope)
	check(t, err)
	if left := empty.Diff(now); len(left) != 0 {
		t.Errorf("left after the daemon's end:\n%s", strings.Join(left, "\n"))
	}
}

// pod runs a pod with logs below the test's directory and returns its configuration and ID.
func pod(t *testing.T, n *world, name string) (*podOf, string) {
	t.Helper()
	logs := filepath.Join(n.Dir, "logs", name)
	config := cri.PodConfig(name, logs)
	id, err := n.CRI.RunPod(t.Context(), config)
	check(t, err)
	return &podOf{n: n, id: id, config: config, logs: logs}, id
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
