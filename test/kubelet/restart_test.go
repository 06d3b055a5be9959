package kubelet

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/kubelet"
)

// living is a pod with everything that could be taken for dead while nobody looked: probes, a sidecar, an init container that has run.
const living = `
initContainers:
- {name: init, image: <busybox>, command: ["true"]}
- {name: side, image: <busybox>, restartPolicy: Always, command: [sleep, "1000"]}
containers:
- name: probed
  image: <busybox>
  command: [sh, -c, "touch /tmp/well; sleep 1000"]
  livenessProbe: {exec: {command: [cat, /tmp/well]}, periodSeconds: 1, timeoutSeconds: 20}
  readinessProbe: {exec: {command: [cat, /tmp/well]}, periodSeconds: 1, timeoutSeconds: 20}
- {name: limited, image: <busybox>, command: [sleep, "1000"], resources: {requests: {cpu: 1m, memory: 1Mi}, limits: {memory: 64Mi, cpu: 500m}}}
`

// processes are the containers of a pod: the first process of each by name.
func (w *world) processes(t *testing.T, pod string) map[string]string {
	t.Helper()
	p := w.ready(t, pod)
	first := map[string]string{}
	for _, name := range []string{"side", "probed", "limited"} {
		s, _ := p.Container(name)
		if s.RestartCount != 0 {
			t.Errorf("%s of pod %s was started again %d times", name, pod, s.RestartCount)
		}
		// The container's own first process, by its start: in the host's numbers it may be another's tomorrow.
		first[name] = s.ID() + w.exec(t, pod, name, "sh", "-c", "cut -d' ' -f22 /proc/1/stat; readlink /proc/1/ns/pid")
	}
	return first
}

// checkLives compares with what processes returned before.
func (w *world) checkLives(t *testing.T, before map[string]map[string]string) {
	t.Helper()
	for pod, was := range before {
		if now := w.processes(t, pod); !maps.Equal(now, was) {
			t.Errorf("pod %s: containers' first processes were %v and are %v", pod, was, now)
		}
	}
}

// livingPods runs some and returns their processes.
func (w *world) livingPods(t *testing.T) map[string]map[string]string {
	t.Helper()
	before := map[string]map[string]string{}
	for i := range 3 {
		w.pod(t, fmt.Sprint("pod", i), living)
	}
	for i := range 3 {
		before[fmt.Sprint("pod", i)] = w.processes(t, fmt.Sprint("pod", i))
	}
	return before
}

func TestARestartedKubeletFindsItsPods(t *testing.T) {
	w := start(t, nil)
	before := w.livingPods(t)
	// What changes while no kubelet runs is made good afterwards: a container that ended, a pod that shall go, one that shall be.
	w.pod(t, "mortal", `containers: [{name: main, image: <busybox>, command: [sleep, "1000"]}]`)
	w.pod(t, "leaving", `containers: [{name: main, image: <busybox>, command: [sleep, "1000"]}]`+"\nterminationGracePeriodSeconds: 1")
	leaving := w.ready(t, "leaving")
	mortal, _ := w.ready(t, "mortal").Container("main")
	check(t, w.kubelet.Kill())
	_, err := w.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: mortal.ID()})
	check(t, err)
	check(t, w.kubelet.Delete("leaving.yaml"))
	w.pod(t, "coming", `containers: [{name: main, image: <busybox>, command: [sleep, "1000"]}]`)
	check(t, w.kubelet.Restart(t.Context()))
	w.checkLives(t, before)
	w.ready(t, "coming")
	s := w.container(t, "mortal", "main", func(s kubelet.ContainerStatus) bool { return s.State.Running != nil && s.RestartCount == 1 })
	if s.ID() == mortal.ID() {
		t.Errorf("the container that was stopped is the one that runs: %+v", s)
	}
	w.gone(t, leaving.Metadata.UID)
}

func TestPodsOutliveTheRuntimesDeath(t *testing.T) {
	w := start(t, nil)
	w.excused = append(w.excused, `Unavailable|fermata.sock|EOF|transport`) // the runtime is dead twice
	before := w.livingPods(t)
	w.pod(t, "mortal", `containers: [{name: main, image: <busybox>, command: [sh, -c, "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 9"]}]`)
	w.ready(t, "mortal")
	for i := range 5 { // the second death finds the daemon in the middle of its work
		w.pod(t, fmt.Sprint("born", i), living)
	}
	check(t, w.Kill())
	check(t, w.Restart(t.Context()))
	w.checkLives(t, before)
	for i := range 5 {
		w.processes(t, fmt.Sprint("born", i))
	}
	// An end that nobody was there to see has its exit code.
	p := w.ready(t, "mortal")
	s, _ := p.Container("main")
	pid := w.firstProcess(t, s.ID())
	w.exec(t, "mortal", "main", "sh", "-c", "(sleep 1; touch /tmp/end) </dev/null >/dev/null 2>&1 &")
	check(t, w.Kill())
	waitEnded(t, pid)
	check(t, w.Restart(t.Context()))
	s = w.container(t, "mortal", "main", func(s kubelet.ContainerStatus) bool { return s.RestartCount == 1 })
	if last := s.LastState.Terminated; last == nil || last.ExitCode != 9 {
		t.Errorf("the end is told as %+v", last)
	}
	w.checkLives(t, before)
}

// firstProcess is a container's, in the host's numbers.
func (w *world) firstProcess(t *testing.T, id string) int {
	t.Helper()
	for _, controller := range []string{"pids", ""} {
		var pid int
		data, _ := os.ReadFile(filepath.Join(w.group(controller, id), "cgroup.procs"))
		if n, _ := fmt.Sscan(string(data), &pid); n == 1 {
			return pid
		}
	}
	t.Fatalf("container %s has no process", id)
	return 0
}

// waitEnded waits until there is no such process any more.
func waitEnded(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}
