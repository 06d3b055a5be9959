// Package kubelet tests fermata under a real kubelet that runs alone, with static pods and without an API server. Every test has a
// runtime and a kubelet of its own; its pods are subtests that run at once, as on a node.
//
// At the end of each test the kubelet's log is read: an error that has to do with the runtime fails the test (see log_test.go). Then
// the pods are removed, and nothing of them may be left on the machine.
package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/cri"
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
	// excused are patterns of errors in the kubelet's log that the test provokes.
	excused []string
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
	// One pod's life first: the bridge, the table and the cgroup that it brings stay for the next.
	id, err := n.CRI.RunPod(t.Context(), cri.PodConfig("first", ""))
	check(t, err)
	check(t, n.CRI.RemovePod(t.Context(), id))
	w.before, err = machine.Take(n.Scope())
	check(t, err)
	w.kubelet, err = kubelet.Start(t.Context(), kubelet.Options{
		Dir: filepath.Join(dir, "k"), Endpoint: n.Endpoint, Cgroup: "/" + filepath.Base(dir), Config: config,
	})
	check(t, err)
	t.Cleanup(func() { w.endKubelet(t) })
	return w
}

// endKubelet ends the kubelet and reads its log.
func (w *world) endKubelet(t testing.TB) {
	if err := w.kubelet.Stop(); err != nil {
		t.Errorf("stop the kubelet: %v", err)
	}
	if bad := errorsOf(t, w.kubelet.Log, w.excused); len(bad) != 0 {
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
	if w.before != nil && w.Kind == "fermata" { // the peer keeps more, and its files are beside the kubelet's
		w.checkNothingLeft(ctx, t)
	}
	err := w.Stop(ctx)
	if w.kubelet != nil {
		err = errors.Join(err, w.kubelet.Remove())
	}
	if err != nil {
		t.Errorf("stop: %v", err)
	}
	if t.Failed() {
		w.explain(t)
	}
}

// explain tells what the runtime's log has that may have to do with a failure; FERMATA_TEST_LOGS names a directory that keeps all of it.
func (w *world) explain(t testing.TB) {
	log, _ := os.ReadFile(w.Log)
	for line := range strings.Lines(string(log)) {
		if unusual.MatchString(line) {
			t.Logf("the runtime's log: %s", line)
		}
	}
	t.Logf("the runtime's log ends:\n%s", log[max(0, len(log)-3000):])
	if keep := os.Getenv("FERMATA_TEST_LOGS"); keep != "" {
		os.Rename(w.Log, filepath.Join(keep, t.Name()+"-runtime.log"))
		os.Rename(filepath.Join(w.Dir, "k/kubelet.log"), filepath.Join(keep, t.Name()+"-kubelet.log"))
	}
}

// unusual are warnings, errors, and calls that took a second or more and do not wait for what a container does.
var unusual = regexp.MustCompile(`level=(WARN|ERROR)|(Status|List\w+|PodSandbox|CreateContainer|StartContainer|Log) took=([0-9]+m)?[0-9.]+s `)

// checkNothingLeft removes the pods as the kubelet would at last, and looks for what they left in the runtime.
func (w *world) checkNothingLeft(ctx context.Context, t testing.TB) {
	if err := errors.Join(w.before.Accept(w.PID()), w.before.Note(), w.CRI.RemoveAll(ctx)); err != nil {
		t.Errorf("remove the pods: %v", err)
	}
	left, err := w.before.Left(ctx)
	if err != nil {
		t.Errorf("look at the machine: %v", err)
	}
	if len(left) != 0 {
		t.Errorf("left on the machine:\n%s", strings.Join(left, "\n"))
	}
}

// pod runs a static pod: its metadata is made here, spec is YAML, with <busybox> and <nginx> for images and <dir> for a directory
// of the test's own on the host.
func (w *world) pod(t testing.TB, name, spec string) {
	t.Helper()
	check(t, os.MkdirAll(w.dir(name), 0o777))
	metadata := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + name + "\n  namespace: test\n"
	check(t, w.kubelet.Apply(name+".yaml", metadata+w.spec(name, spec)))
}

// spec is the manifest's part that a test writes.
func (w *world) spec(name, spec string) string {
	spec = strings.NewReplacer("<busybox>", images.Busybox, "<nginx>", images.Nginx, "<dir>", w.dir(name)).Replace(strings.TrimSpace(spec))
	return "spec:\n  " + strings.ReplaceAll(spec, "\n", "\n  ") + "\n"
}

// dir is on the host, for a pod's hostPath volumes.
func (w *world) dir(pod string) string { return filepath.Join(w.Dir, "host", pod) }

// file reads a file of the pod's directory on the host; "" while it is not there.
func (w *world) file(t testing.TB, pod, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir(pod), name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

// log is a container's log as kubectl would show it.
func (w *world) log(t testing.TB, pod, container, query string) string {
	t.Helper()
	data, err := w.kubelet.Get(t.Context(), fmt.Sprintf("/containerLogs/test/%s-%s/%s?%s", pod, w.kubelet.Name, container, query))
	check(t, err)
	return string(data)
}

// exec runs a command in a container and returns what it wrote, without the last line's end.
func (w *world) exec(t testing.TB, pod, container string, command ...string) string {
	t.Helper()
	p, err := w.kubelet.Pod(t.Context(), pod)
	check(t, err)
	if p == nil {
		t.Fatalf("exec in %s of pod %s: there is no such pod", container, pod)
	}
	status, ok := p.Container(container)
	if !ok || status.State.Running == nil {
		t.Fatalf("exec in %s of pod %s: it does not run: %s", container, pod, told(p.Status))
	}
	out, err := w.CRI.Exec(t.Context(), status.ID(), command...)
	check(t, err)
	return strings.TrimSpace(out)
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

// container waits until a container's status is as wanted, and returns it.
func (w *world) container(t testing.TB, pod, name string, wanted func(kubelet.ContainerStatus) bool) kubelet.ContainerStatus {
	t.Helper()
	var status kubelet.ContainerStatus
	w.until(t, pod, func(p *kubelet.Pod) string {
		var ok bool
		if status, ok = p.Container(name); ok && wanted(status) {
			return ""
		}
		return fmt.Sprintf("container %s is not as wanted: %s", name, told(p.Status))
	})
	return status
}

// ended waits until all of the pod has, and returns it.
func (w *world) ended(t testing.TB, name, phase string) *kubelet.Pod {
	t.Helper()
	return w.until(t, name, func(p *kubelet.Pod) string {
		if p.Status.Phase == phase {
			return ""
		}
		return "is not " + phase + ": " + told(p.Status)
	})
}

// told writes a status with what it points to.
func told(status kubelet.PodStatus) string {
	text, _ := json.Marshal(status)
	return string(text)
}

// ready waits until the pod is.
func (w *world) ready(t testing.TB, name string) *kubelet.Pod {
	t.Helper()
	return w.until(t, name, func(p *kubelet.Pod) string {
		if p.Condition("Ready") == "True" {
			return ""
		}
		return "not ready: " + told(p.Status)
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
