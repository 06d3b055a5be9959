// Package cluster tests fermata as the runtime of a whole Kubernetes with two nodes, the way its users meet it: by kubectl. The cluster is started once;
// its subtests run in order, because the later ones take apart what the first one made.
//
// At the end everything is deleted through the API, and nothing may be left on either node; an error about the runtime in a kubelet's log fails the test.
package cluster

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cluster"
	"fermata/internal/testkit/images"
	"fermata/internal/testkit/leak"
	"fermata/internal/testkit/machine"
)

func TestMain(m *testing.M) { leak.Main(m) }

// world is the cluster and how its nodes looked before there were pods.
type world struct {
	*cluster.Cluster
	before map[*cluster.Node]*machine.Snapshot
}

func TestCluster(t *testing.T) {
	w := start(t)
	for _, s := range []struct {
		name string
		run  func(*world, *testing.T)
	}{
		{"a deployment of twenty pods runs on both nodes", (*world).deployment},
		{"a pod reaches pods of both nodes, and they see its own address", (*world).network},
		{"logs are followed to the container's end", (*world).logs},
		{"exec on a terminal has its size and returns the exit code", (*world).terminal},
		{"attach talks to the container's own process", (*world).attach},
		{"port-forward reaches a port of the pod", (*world).portForward},
		{"cp brings a file in and out again unchanged", (*world).copyFiles},
		{"sessions work over SPDY as over WebSocket", (*world).spdy},
		{"debug adds a container that sees the target's processes", (*world).debug},
		{"config maps and secrets are volumes that follow changes", (*world).configVolumes},
		{"a pod is resized without a restart", (*world).resize},
		{"a pod with hostUsers false is root in its own namespace only", (*world).userNamespace},
		{"metrics for kubectl top name pods and containers", (*world).metrics},
		{"a rolling update replaces every pod", (*world).rollingUpdate},
		{"an indexed job completes, over a failure", (*world).job},
		{"a daemon set runs once a node and serves at a host port", (*world).daemonSet},
		{"an emptyDir outlives a container's restart, not its pod", (*world).statefulSet},
		{"draining moves every pod from a node", (*world).drain},
		{"what each runtime has recorded is what its kernel has", (*world).doctor},
		{"deleting everything leaves nothing", (*world).nothingLeft},
	} {
		began := time.Now()
		if !t.Run(s.name, func(t *testing.T) { s.run(w, t) }) {
			continue
		}
		t.Logf("%5.1f s %s", time.Since(began).Seconds(), s.name)
	}
}

// start starts the cluster and two pods that sessions are tested with: "left" on the first node, "right" on the second.
func start(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "cl-") // short, for sockets' sake
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	c, err := cluster.Start(t.Context(), cluster.Options{Dir: dir, Nodes: []string{"a", "b"}})
	check(t, err)
	w := &world{Cluster: c, before: map[*cluster.Node]*machine.Snapshot{}}
	t.Cleanup(func() { w.end(t) })
	for _, n := range w.Nodes {
		until(t, func(ctx context.Context) error { // the kubelet tells fermata its network some time after its start
			missing, err := n.Runtime.CRI.Missing(ctx)
			if err == nil && len(missing) != 0 {
				err = fmt.Errorf("node %s: %v", n.Name, missing)
			}
			return err
		})
		check(t, n.Inside(func() (err error) {
			w.before[n], err = machine.Take(scope(n))
			return err
		}))
	}
	w.apply(t, pod("left", "a", sleeper)+"---\n"+pod("right", "b", sleeper))
	w.ready(t, "pod/left", "pod/right")
	return w
}

// scope is where a node's pods leave traces.
func scope(n *cluster.Node) machine.Scope {
	s := n.Runtime.Scope()
	s.Dirs = append(s.Dirs, n.Kubelet.Dir+"/root/pods", n.Kubelet.PodLogs)
	s.Cgroups = append(s.Cgroups, n.Kubelet.Cgroup)
	return s
}

// end stops the cluster and reads what the kubelets said.
func (w *world) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if t.Failed() {
		events, _ := w.Kubectl(ctx, "get", "events", "--sort-by=.lastTimestamp", "-o",
			`jsonpath={range .items[?(@.type!="Normal")]}{.involvedObject.name}: {.message}{"\n"}{end}`)
		pods, _ := w.Kubectl(ctx, "get", "pods", "-o", "wide")
		t.Logf("pods:\n%s\nevents:\n%s", pods, events)
	}
	if err := w.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	for _, n := range w.Nodes {
		log, err := os.ReadFile(n.Kubelet.Log)
		check(t, err)
		for _, line := range aboutRuntime.FindAllString(string(log), -1) {
			if !expected.MatchString(line) {
				t.Errorf("the kubelet of node %s: %s", n.Name, line)
			}
		}
		if t.Failed() {
			log, _ := os.ReadFile(n.Runtime.Log)
			t.Logf("the runtime's log of node %s ends:\n%s", n.Name, log[max(0, len(log)-6000):])
		}
	}
	w.nothingOnHost(t)
}

// nothingOnHost looks after the cluster's end.
func (w *world) nothingOnHost(t *testing.T) {
	t.Helper()
	check(t, os.RemoveAll(w.Dir))
	empty, err := machine.Take(machine.Scope{Dirs: []string{w.Dir}})
	check(t, err)
	now, err := machine.Take(w.Scope())
	check(t, err)
	if left := empty.Diff(now); len(left) != 0 {
		t.Errorf("left on the host after the cluster's end:\n%s", strings.Join(left, "\n"))
	}
}

// aboutRuntime is an error of klog's ("E1123 18:20:00…") that comes from CRI.
var aboutRuntime = regexp.MustCompile(`(?m)^[EF]\d{4} .*(rpc error|RuntimeService|ImageService|PodSandbox).*$`)

// expected are errors with any runtime: the kubelet asks for a container that another of its own goroutines has removed, probes one that is ending, and
// gives up its questions when it ends itself.
var expected = regexp.MustCompile(`code = NotFound desc = find container|code = FailedPrecondition desc = exec in container [0-9a-f]+: it is exited|` +
	`code = FailedPrecondition desc = .*: the container has ended|code = Canceled desc = context canceled`)

// doctor asks each runtime to compare.
func (w *world) doctor(t *testing.T) {
	for _, n := range w.Nodes {
		until(t, func(ctx context.Context) error { // pods that end are between the two for a moment
			if said, err := n.Runtime.Doctor(ctx); err != nil {
				return fmt.Errorf("node %s: %w\n%s", n.Name, err, said)
			}
			return nil
		})
	}
}

// nothingLeft deletes all there is and waits until the kubelets have forgotten it too: they collect what pods leave once a minute.
func (w *world) nothingLeft(t *testing.T) {
	w.kubectl(t, "delete", "deployment,daemonset,statefulset,job,pod,configmap,secret", "--all", "--timeout=120s")
	for _, n := range w.Nodes {
		until(t, func(ctx context.Context) error {
			list, err := n.Runtime.CRI.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			if err == nil && len(list.GetItems()) != 0 {
				err = fmt.Errorf("node %s has %d pods", n.Name, len(list.GetItems()))
			}
			return err
		})
		check(t, n.Inside(func() error {
			left, err := w.before[n].Left(t.Context())
			for _, what := range left {
				if !kept.MatchString(what) {
					t.Errorf("left on node %s: %s", n.Name, what)
				}
			}
			return err
		}))
	}
}

// kept is what a node has from its first pod on: the kubelet's classes of service in hierarchies that it does not make them in itself, and how far the
// round of addresses went.
var kept = regexp.MustCompile(`^cgroup: .*/kubepods(/besteffort|/burstable)? \(0 processes\)$|^file: .*/network/next\.json$`)

// kubectl returns what kubectl prints.
func (w *world) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := w.Kubectl(ctx, args...)
	check(t, err)
	return out
}

// apply makes objects from YAML in which images go by short names.
func (w *world) apply(t *testing.T, manifest string) {
	t.Helper()
	manifest = strings.NewReplacer("BUSYBOX", images.Busybox, "NGINX", images.Nginx).Replace(manifest)
	_, err := w.Apply(t.Context(), manifest, "apply", "-f", "-")
	check(t, err)
}

func (w *world) ready(t *testing.T, what ...string) {
	t.Helper()
	w.kubectl(t, append([]string{"wait", "--for=condition=Ready", "--timeout=120s"}, what...)...)
}

// sleeper is a container that does nothing, and ends when asked.
const sleeper = `
  - name: main
    image: BUSYBOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
`

// pod is a manifest of a pod on a node ("": any); containers and whatever follows them are YAML.
func pod(name, node, containers string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %q
  terminationGracePeriodSeconds: 2
  containers:%s`, name, node, containers)
}

// until asks until nil is said; what was said last is told after two minutes.
func until(t *testing.T, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
