// Package fault plants a fault at every step of every pipeline: an error, a panic, the death of the daemon, of the keeper, of both. Whatever
// it was, the same request again succeeds, in under a second after the daemon's start; containers that ran run on with the same PID, the same
// connections and no line of their logs missing; and nothing is left on the machine.
//
// The program of that matrix is built with the tag "failpoints" (package failpoint); which steps there are it tells itself.
//
// Beside it: the torture (random requests, random kills), writers without a daemon, many pods and broken records.
package fault

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/leak"
	"fermata/internal/testkit/machine"
	"fermata/internal/testkit/node"
	"fermata/internal/testkit/tools"
)

func TestMain(m *testing.M) { leak.Main(m) }

// program is fermata with failpoints. The keeper that it contains has none.
func program() (string, error) {
	root, err := tools.Root()
	if err != nil {
		return "", err
	}
	out := filepath.Join(os.TempDir(), fmt.Sprintf("fermata-failpoints-%d", os.Getpid()))
	build := exec.Command("go", "build", "-tags", "failpoints", "-trimpath", "-o", out, "./cmd/fermata")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if b, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build fermata with failpoints: %w\n%s", err, b)
	}
	return out, nil
}

var keep = flag.Bool("keep", false, "keep the directory of a test that fails")

// world is a node under test.
type world struct {
	*node.Node
	points string // directory of the failpoints
	before *machine.Snapshot
}

// startWithFailpoints runs a node whose daemon has them.
func startWithFailpoints(t *testing.T) *world {
	t.Helper()
	binary, err := program()
	check(t, err)
	t.Cleanup(func() { os.Remove(binary) })
	return start(t, binary)
}

// start runs a node; binary is its fermata, "" for bin/fermata. prepare is given its directory before.
func start(t *testing.T, binary string, prepare ...func(dir string)) *world {
	t.Helper()
	registry, err := images.Serve(t.Context())
	check(t, err)
	t.Cleanup(func() { registry.Close() })
	dir, err := os.MkdirTemp("", "flt-")
	check(t, err)
	for _, p := range prepare {
		p(dir)
	}
	certs := filepath.Join(dir, "certs.d")
	check(t, registry.Mirrors(certs))
	n, err := node.Fermata(t.Context(), node.Options{Dir: dir, Registries: certs, Name: "fl", Binary: binary})
	check(t, err)
	w := &world{Node: n, points: filepath.Join(dir, "s/failpoints")}
	t.Cleanup(func() { w.end(t) })
	_, err = n.CRI.Pull(t.Context(), images.Busybox)
	check(t, err)
	return w
}

// baseline is how the machine is to look after every fault.
func (w *world) baseline(t *testing.T) {
	t.Helper()
	scope := w.Scope()
	scope.Except = append(scope.Except, w.points)
	var err error
	w.before, err = machine.Take(scope)
	check(t, err)
}

// left is what there is that was not at the baseline.
func (w *world) left(ctx context.Context) ([]string, error) {
	for _, pid := range w.Processes() { // daemon and keeper may have been started again
		if err := w.before.Accept(pid); err != nil {
			return nil, err
		}
	}
	return w.before.Left(ctx)
}

func (w *world) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if !w.Running() {
		if err := w.Restart(ctx); err != nil {
			t.Errorf("start again: %v", err)
		}
	}
	if err := w.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	if found, err := w.Sweep(); err != nil || len(found) > 0 {
		t.Errorf("swept away after the daemon's end: %q (%v)", found, err)
	}
	if t.Failed() {
		log, _ := os.ReadFile(w.Log)
		t.Logf("the daemon's log ends:\n%s", log[max(0, len(log)-8000):])
		if *keep {
			t.Logf("kept: %s", w.Dir)
			return
		}
	}
	os.RemoveAll(w.Dir)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
