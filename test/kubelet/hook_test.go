package kubelet

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/kubelet"
)

func postStart(t *testing.T, w *world) {
	w.pod(t, "poststart", `
volumes: [{name: host, hostPath: {path: <dir>}}]
containers:
- name: main
  image: <busybox>
  command: [sh, -c, "date +%s > /host/main; sleep 1000"]
  lifecycle: {postStart: {exec: {command: [sh, -c, "sleep 2; date +%s > /host/hook; hostname"]}}}
  volumeMounts: [{name: host, mountPath: /host}]
`)
	p := w.ready(t, "poststart")
	if w.file(t, "poststart", "hook") == "" || w.file(t, "poststart", "main") == "" {
		t.Errorf("ready before its hook had ended: %s", told(p.Status))
	}
}

func failingPostStart(t *testing.T, w *world) {
	w.pod(t, "badpoststart", `
containers:
- {name: main, image: <busybox>, command: [sleep, "1000"], lifecycle: {postStart: {exec: {command: [sh, -c, "exit 4"]}}}}
terminationGracePeriodSeconds: 1
`)
	s := w.container(t, "badpoststart", "main", func(s kubelet.ContainerStatus) bool { return s.RestartCount > 0 && s.LastState.Terminated != nil })
	if code := s.LastState.Terminated.ExitCode; code != 137 && code != 143 {
		t.Errorf("the container ended with %d: it was to be ended by a signal", code)
	}
}

// deleted removes the pod's manifest, waits until nothing of the pod runs any more, and returns how long that took. The kubelet itself
// forgets a static pod at once, so the runtime is asked.
func (w *world) deleted(t *testing.T, pod string) time.Duration {
	t.Helper()
	p := w.ready(t, pod)
	began := time.Now()
	check(t, w.kubelet.Delete(pod+".yaml"))
	w.gone(t, p.Metadata.UID)
	return time.Since(began)
}

// gone waits until nothing of the pod runs any more.
func (w *world) gone(t *testing.T, uid string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); w.runs(t, uid); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("pod %s still runs, two minutes after its manifest was removed", uid)
		}
	}
}

// runs reports whether the runtime has a ready sandbox of the pod.
func (w *world) runs(t *testing.T, uid string) bool {
	t.Helper()
	list, err := w.CRI.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": uid},
	}})
	check(t, err)
	return len(list.GetItems()) != 0
}

func preStop(t *testing.T, w *world) {
	w.pod(t, "prestop", `
volumes: [{name: host, hostPath: {path: <dir>}}]
containers:
- name: main
  image: <busybox>
  command: [sh, -c, "trap 'echo signal >> /host/order; exit 0' TERM; while :; do sleep 0.1; done"]
  lifecycle: {preStop: {exec: {command: [sh, -c, "sleep 1; echo hook >> /host/order"]}}}
  volumeMounts: [{name: host, mountPath: /host}]
- {name: nap, image: <busybox>, command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"], lifecycle: {preStop: {sleep: {seconds: 2}}}}
terminationGracePeriodSeconds: 20
`)
	took := w.deleted(t, "prestop")
	if got := strings.Fields(w.file(t, "prestop", "order")); !slices.Equal(got, []string{"hook", "signal"}) {
		t.Errorf("what happened: %q", got)
	}
	if took < 2*time.Second {
		t.Errorf("gone after %v: a hook sleeps 2 s", took)
	}
}

func gracePeriod(t *testing.T, w *world) {
	w.pod(t, "grace", `
volumes: [{name: host, hostPath: {path: <dir>}}]
containers:
- name: stubborn
  image: <busybox>
  command: [sh, -c, "trap 'date +%s > /host/asked' TERM; while :; do date +%s > /host/alive; sleep 0.1; done"]
  volumeMounts: [{name: host, mountPath: /host}]
- name: polite
  image: <busybox>
  command: [sh, -c, "trap 'sleep 2; echo done > /host/polite; exit 0' TERM; while :; do sleep 0.1; done"]
  volumeMounts: [{name: host, mountPath: /host}]
terminationGracePeriodSeconds: 5
`)
	w.deleted(t, "grace")
	asked, alive := seconds(t, w.file(t, "grace", "asked")), seconds(t, w.file(t, "grace", "alive"))
	if lived := alive.Sub(asked); lived < 4*time.Second || lived > 8*time.Second {
		t.Errorf("lived %v after SIGTERM, has 5 s", lived)
	}
	if got := w.file(t, "grace", "polite"); got != "done\n" {
		t.Errorf("the other was not let end: %q", got)
	}
}

// seconds reads what date +%s wrote.
func seconds(t *testing.T, text string) time.Time {
	t.Helper()
	s, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	check(t, err)
	return time.Unix(s, 0)
}
