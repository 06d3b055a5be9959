// Package kubelet tests fermata under a real kubelet that runs alone, with static pods and without an API server. Every test has a
// runtime and a kubelet of its own; its pods are subtests that run at once, as on a node.
//
// At the end of each test the kubelet's log is read: an error that has to do with the runtime fails the test (see log_test.go). Then
// the pods are removed, and nothing of them may be left on the machine.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/kubelet"
	"fermata/internal/testkit/leak"
	"fermata/internal/testkit/machine"
	"fermata/internal/testkit/node"
)

func TestMain(m *testing.M) { leak.Main(m) }

// world is a node: a runtime and a kubelet.
type world struct {
	*node.Node
	kubelet *kubelet.Kubelet
	before  *machine.Snapshot
}

// start runs fermata and a kubelet that differs from the default by config.
func start(t testing.TB, config map[string]any) *world {
	t.Helper()
	registry, err := images.Serve(t.Context())
	check(t, err)
	t.Cleanup(func() { registry.Close() })
	dir, err := os.MkdirTemp("", "kl-") // short, for sockets' sake
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	certs := filepath.Join(dir, "certs.d")
	check(t, registry.Mirrors(certs))
	runtime := node.Fermata
	if os.Getenv("FERMATA_TEST_RUNTIME") == "containerd" { // proves the tests themselves
		runtime = node.Containerd
	}
	n, err := runtime(t.Context(), node.Options{Dir: dir, Registries: certs, Name: "kl"})
	check(t, err)
	w := &world{Node: n}
	t.Cleanup(func() { w.endRuntime(t) })
	_, err = n.CRI.Pull(t.Context(), images.Busybox)
	check(t, err)
	w.kubelet, err = kubelet.Start(t.Context(), kubelet.Options{
		Dir: filepath.Join(dir, "k"), Endpoint: n.Endpoint, Cgroup: "/" + filepath.Base(dir), Config: config,
	})
	check(t, err)
	t.Cleanup(func() { w.endKubelet(t) })
	return w
}

// scope is where the pods leave traces: the runtime's, and below the kubelet's cgroup.
func (w *world) scope() machine.Scope {
	s := w.Scope()
	s.Cgroups = append(s.Cgroups, w.kubelet.Cgroup)
	return s
}

// endKubelet ends the kubelet and reads its log.
func (w *world) endKubelet(t testing.TB) {
	if err := w.kubelet.Stop(); err != nil {
		t.Errorf("stop the kubelet: %v", err)
	}
	if bad := errorsOf(t, w.kubelet.Log); len(bad) != 0 {
		t.Errorf("errors in the kubelet's log:\n%s", strings.Join(bad, "\n"))
	}
}

func (w *world) endRuntime(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if !w.Running() { // a test failed between killing and starting again
		if err := w.Restart(ctx); err != nil {
			t.Errorf("start the runtime again: %v", err)
		}
	}
	err := w.Stop(ctx)
	if w.kubelet != nil {
		err = errors.Join(err, w.kubelet.Remove())
	}
	if err != nil {
		t.Errorf("stop: %v", err)
	}
	if t.Failed() {
		log, _ := os.ReadFile(w.Log)
		t.Logf("the runtime's log ends:\n%s", log[max(0, len(log)-6000):])
	}
}

// pod runs a static pod: the manifest's metadata is made here, spec is its YAML.
func (w *world) pod(t testing.TB, name, spec string) {
	t.Helper()
	check(t, w.kubelet.Apply(name+".yaml", manifest(name, spec)))
}

func manifest(name, spec string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: test\nspec:\n  %s\n", name,
		strings.ReplaceAll(strings.TrimSpace(strings.ReplaceAll(spec, "BUSYBOX", images.Busybox)), "\n", "\n  "))
}

// until asks for the pod until it is as wanted; what is missing is told when the time is over.
func (w *world) until(t testing.TB, name string, wanted func(*kubelet.Pod) (missing string)) *kubelet.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	missing := "the kubelet does not know it"
	for {
		p, err := w.kubelet.Pod(ctx, name)
		if err != nil && ctx.Err() == nil {
			t.Fatalf("pod %s: %v", name, err)
		}
		if p != nil {
			if missing = wanted(p); missing == "" {
				return p
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("pod %s: %s", name, missing)
		case <-tick.C:
		}
	}
}

// ready waits until the pod is.
func (w *world) ready(t testing.TB, name string) *kubelet.Pod {
	t.Helper()
	return w.until(t, name, func(p *kubelet.Pod) string {
		if p.Condition("Ready") == "True" {
			return ""
		}
		return fmt.Sprintf("not ready: %+v", p.Status)
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
