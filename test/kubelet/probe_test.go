package kubelet

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/kubelet"
)

func livenessExec(t *testing.T, w *world) {
	w.pod(t, "liveness", `
containers:
- name: main
  image: <busybox>
  command: [sh, -c, "trap 'exit 7' TERM; touch /tmp/well; while :; do sleep 0.1; done"]
  livenessProbe: {exec: {command: [cat, /tmp/well]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
- {name: other, image: <busybox>, command: [sleep, "1000"]}
`)
	w.ready(t, "liveness")
	w.exec(t, "liveness", "main", "rm", "/tmp/well")
	s := w.container(t, "liveness", "main", func(s kubelet.ContainerStatus) bool { return s.RestartCount == 1 && s.State.Running != nil })
	if last := s.LastState.Terminated; last == nil || last.ExitCode != 7 {
		t.Errorf("the first ended as %+v: it was to be asked by SIGTERM", last)
	}
	if s := w.container(t, "liveness", "other", func(kubelet.ContainerStatus) bool { return true }); s.RestartCount != 0 {
		t.Errorf("the other container was started again")
	}
}

func startupProbe(t *testing.T, w *world) {
	w.pod(t, "startup", `
containers:
- name: main
  image: <busybox>
  command: [sh, -c, "sleep 4; touch /tmp/up; sleep 1000"]
  startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 60}
  livenessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
`)
	var before bool
	p := w.until(t, "startup", func(p *kubelet.Pod) string {
		s, _ := p.Container("main")
		if s.State.Running != nil && s.Started != nil && !*s.Started && !s.Ready {
			before = true
		}
		if s.Ready && s.Started != nil && *s.Started {
			return ""
		}
		return "not started: " + told(p.Status)
	})
	s, _ := p.Container("main")
	if !before || s.RestartCount != 0 {
		t.Errorf("seen running and not yet started: %v; started again %d times", before, s.RestartCount)
	}
}

func readinessExec(t *testing.T, w *world) {
	w.pod(t, "readiness", `
containers:
- name: main
  image: <busybox>
  command: [sh, -c, "touch /tmp/ready; sleep 1000"]
  readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
`)
	w.ready(t, "readiness")
	w.exec(t, "readiness", "main", "rm", "/tmp/ready")
	w.container(t, "readiness", "main", func(s kubelet.ContainerStatus) bool { return !s.Ready })
	w.exec(t, "readiness", "main", "touch", "/tmp/ready")
	p := w.ready(t, "readiness")
	if s, _ := p.Container("main"); s.RestartCount != 0 {
		t.Errorf("started again %d times", s.RestartCount)
	}
}

func networkProbes(t *testing.T, w *world) {
	w.pod(t, "network", `
containers:
- name: http
  image: <nginx>
  ports: [{name: web, containerPort: 80}]
  startupProbe: {httpGet: {path: /, port: web}, periodSeconds: 1, timeoutSeconds: 20}
  readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1, timeoutSeconds: 20}
  livenessProbe: {tcpSocket: {port: web}, periodSeconds: 1, timeoutSeconds: 20}
- name: late
  image: <nginx>
  env: [{name: NGINX_PORT, value: "81"}]
  command: [sh, -c, "while [ ! -e /tmp/go ]; do sleep 0.1; done; exec /usr/sbin/nginx"]
  readinessProbe: {tcpSocket: {port: 81}, periodSeconds: 1, timeoutSeconds: 20}
`)
	w.container(t, "network", "http", func(s kubelet.ContainerStatus) bool { return s.Ready })
	// Where nothing listens, it stays unready, until something does.
	if s := w.container(t, "network", "late", func(s kubelet.ContainerStatus) bool { return s.State.Running != nil }); s.Ready {
		t.Error("ready, and nothing listens")
	}
	w.exec(t, "network", "late", "touch", "/tmp/go")
	p := w.ready(t, "network")
	for _, name := range []string{"http", "late"} {
		if s, _ := p.Container(name); s.RestartCount != 0 {
			t.Errorf("%s was started again", name)
		}
	}
}

func slowProbe(t *testing.T, w *world) {
	w.pod(t, "slowprobe", `
shareProcessNamespace: true
containers:
- name: main
  image: <busybox>
  command: [sleep, "1000"]
  readinessProbe: {exec: {command: [sh, -c, "echo begun >> /tmp/probes; sleep 4321 & sleep 4321"]}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1}
`)
	w.container(t, "slowprobe", "main", func(s kubelet.ContainerStatus) bool { return s.State.Running != nil })
	begun := func() int {
		return len(strings.Fields(w.exec(t, "slowprobe", "main", "sh", "-c", "cat /tmp/probes || true")))
	}
	for deadline := time.Now().Add(time.Minute); begun() < 5; <-time.After(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d probes in a minute", begun())
		}
	}
	n, err := strconv.Atoi(w.exec(t, "slowprobe", "main", "sh", "-c", "ps -ef | grep -c 'sleep 432[1]' || true"))
	check(t, err)
	if n > 3 { // of the one that runs: sh (with the words), and two sleeps
		t.Errorf("%d processes after %d probes that took too long", n, begun())
	}
	if s := w.container(t, "slowprobe", "main", func(kubelet.ContainerStatus) bool { return true }); s.Ready || s.RestartCount != 0 {
		t.Errorf("ready %v, started again %d times", s.Ready, s.RestartCount)
	}
}
