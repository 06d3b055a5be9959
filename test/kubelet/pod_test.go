package kubelet

import (
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/kubelet"
)

// What a pod's manifest may say, each in a pod of its own; all of them run at once on one node.
func TestPods(t *testing.T) {
	w := start(t, nil)
	for name, test := range map[string]func(*testing.T, *world){
		"init containers run one after the other, before the rest":                  initContainers,
		"an init container that fails runs again":                                   failingInit,
		"a sidecar is up before the containers and ends after them":                 sidecar,
		"a sidecar that ends is started again and holds nothing up":                 sidecarRestarts,
		"a container that fails is started again, later each time":                  backOff,
		"an end is final where the restart policy says so":                          finalEnds,
		"the last message is the termination log, or the log's end when that fails": terminationMessages,
		"postStart runs with the container and holds back its being ready":          postStart,
		"a container whose postStart fails is ended and started again":              failingPostStart,
		"preStop runs before the stop signal":                                       preStop,
		"a pod's grace period is kept, and ends":                                    gracePeriod,
		"a failing exec probe of liveness restarts the container":                   livenessExec,
		"nothing is probed for liveness before the startup probe succeeded":         startupProbe,
		"an exec probe of readiness makes a container unready and ready again":      readinessExec,
		"HTTP and TCP probes reach the pod":                                         networkProbes,
		"an exec probe that takes too long leaves nothing behind":                   slowProbe,
		"a pod on the host's network, processes and IPC is in the host's":           hostNamespaces,
		"containers that share their processes see and signal each other":           sharedProcesses,
		"a pod with users of its own is root in itself and nobody on the node":      ownUsers,
		"a volume holds what the pod's fields say, another is in memory":            downward,
		"sub-paths are that part of a volume, read-only where they say so":          subPaths,
		"requests and limits are in the cgroups of pod and container":               resources,
		"a container over its memory is ended and says why":                         outOfMemory,
		"a container's resources are changed while it runs":                         resize,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

func initContainers(t *testing.T, w *world) {
	w.pod(t, "init", `
volumes: [{name: shared, emptyDir: {}}]
initContainers:
- {name: one, image: <busybox>, command: [sh, -c, "sleep 1; echo one >> /shared/order"], volumeMounts: [{name: shared, mountPath: /shared}]}
- {name: two, image: <busybox>, command: [sh, -c, "echo two >> /shared/order"], volumeMounts: [{name: shared, mountPath: /shared}]}
containers:
- {name: main, image: <busybox>, command: [sh, -c, "cat /shared/order; sleep 1000"], volumeMounts: [{name: shared, mountPath: /shared}]}
`)
	p := w.ready(t, "init")
	one, _ := p.Container("one")
	two, _ := p.Container("two")
	main, _ := p.Container("main")
	for _, s := range []kubelet.ContainerStatus{one, two} {
		if s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 || s.State.Terminated.Reason != "Completed" {
			t.Fatalf("init container %s: %s", s.Name, told(p.Status))
		}
	}
	if one.State.Terminated.FinishedAt.After(two.State.Terminated.StartedAt) || two.State.Terminated.FinishedAt.After(main.State.Running.StartedAt) {
		t.Errorf("not one after the other: %s", told(p.Status))
	}
	if got := w.log(t, "init", "main", ""); got != "one\ntwo\n" {
		t.Errorf("the volume has %q", got)
	}
}

func failingInit(t *testing.T, w *world) {
	w.pod(t, "failinginit", `
volumes: [{name: shared, emptyDir: {}}]
initContainers:
- {name: init, image: <busybox>, command: [sh, -c, "test -e /shared/again && exit 0; touch /shared/again; exit 5"], volumeMounts: [{name: shared, mountPath: /shared}]}
containers:
- {name: main, image: <busybox>, command: [sleep, "1000"]}
`)
	p := w.ready(t, "failinginit")
	init, _ := p.Container("init")
	if init.RestartCount != 1 || init.State.Terminated == nil || init.State.Terminated.ExitCode != 0 {
		t.Errorf("the init container is %s", told(p.Status))
	}
}

func sidecar(t *testing.T, w *world) {
	w.pod(t, "sidecar", `
restartPolicy: Never
volumes: [{name: shared, emptyDir: {}}]
initContainers:
- name: side
  image: <busybox>
  restartPolicy: Always
  command: [sh, -c, "trap 'echo asked to end; exit 0' TERM; sleep 1; touch /shared/up; sleep 1000 & wait"]
  startupProbe: {exec: {command: [test, -e, /shared/up]}, periodSeconds: 1, timeoutSeconds: 20}
  volumeMounts: [{name: shared, mountPath: /shared}]
- {name: after, image: <busybox>, command: [test, -e, /shared/up], volumeMounts: [{name: shared, mountPath: /shared}]}
containers:
- {name: main, image: <busybox>, command: [sh, -c, "ls /shared; sleep 2"], volumeMounts: [{name: shared, mountPath: /shared}]}
`)
	p := w.ended(t, "sidecar", "Succeeded")
	side, _ := p.Container("side")
	main, _ := p.Container("main")
	after, _ := p.Container("after")
	if side.State.Terminated == nil || main.State.Terminated == nil || after.State.Terminated == nil {
		t.Fatalf("not all have ended: %s", told(p.Status))
	}
	if code := after.State.Terminated.ExitCode; code != 0 {
		t.Errorf("the init container after the sidecar did not see it up: %d", code)
	}
	if side.State.Terminated.FinishedAt.Before(main.State.Terminated.FinishedAt) || side.State.Terminated.ExitCode != 0 {
		t.Errorf("the sidecar ended before the container or was killed: %s", told(p.Status))
	}
	if got := w.log(t, "sidecar", "main", "") + w.log(t, "sidecar", "side", ""); got != "up\nasked to end\n" {
		t.Errorf("logged %q", got)
	}
}

func sidecarRestarts(t *testing.T, w *world) {
	w.pod(t, "sidecarrestarts", `
initContainers:
- {name: side, image: <busybox>, restartPolicy: Always, command: [sh, -c, "sleep 2; exit 1"]}
containers:
- {name: main, image: <busybox>, command: [sleep, "1000"]}
`)
	w.container(t, "sidecarrestarts", "side", func(s kubelet.ContainerStatus) bool { return s.RestartCount > 0 && s.State.Running != nil })
	if s := w.container(t, "sidecarrestarts", "main", func(s kubelet.ContainerStatus) bool { return s.Ready }); s.RestartCount != 0 {
		t.Errorf("the container was started again %d times", s.RestartCount)
	}
}

func backOff(t *testing.T, w *world) {
	w.pod(t, "backoff", `
volumes: [{name: host, hostPath: {path: <dir>}}]
containers:
- {name: main, image: <busybox>, command: [sh, -c, "date +%s >> /host/starts; exit 3"], volumeMounts: [{name: host, mountPath: /host}]}
`)
	s := w.container(t, "backoff", "main", func(s kubelet.ContainerStatus) bool {
		return s.RestartCount == 2 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
	})
	if last := s.LastState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" || last.ContainerID == "" {
		t.Errorf("the last end is %+v", last)
	}
	var starts []time.Time
	for _, line := range strings.Fields(w.file(t, "backoff", "starts")) {
		starts = append(starts, seconds(t, line))
	}
	if len(starts) != 3 || starts[2].Sub(starts[1]) < 9*time.Second {
		t.Errorf("started at %v: the third should be 10 s after the second", starts)
	}
}

func finalEnds(t *testing.T, w *world) {
	w.pod(t, "never", "restartPolicy: Never\ncontainers: [{name: main, image: <busybox>, command: [sh, -c, exit 3]}]")
	w.pod(t, "onfailure", "restartPolicy: OnFailure\ncontainers: [{name: main, image: <busybox>, command: [sh, -c, exit 0]}]")
	for pod, phase := range map[string]string{"never": "Failed", "onfailure": "Succeeded"} {
		p := w.ended(t, pod, phase)
		if s, _ := p.Container("main"); s.RestartCount != 0 {
			t.Errorf("pod %s was started again: %s", pod, told(p.Status))
		}
	}
}

func terminationMessages(t *testing.T, w *world) {
	w.pod(t, "messages", `
restartPolicy: Never
containers:
- {name: file, image: <busybox>, command: [sh, -c, "echo -n from the file > /dev/termination-log; echo log; exit 1"]}
- {name: path, image: <busybox>, terminationMessagePath: /tmp/last, command: [sh, -c, "echo -n elsewhere > /tmp/last"]}
- {name: fallback, image: <busybox>, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo one; echo two >&2; exit 1"]}
- {name: fine, image: <busybox>, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo one"]}
- {name: long, image: <busybox>, command: [sh, -c, "head -c 9000 /dev/zero | tr '\\0' x > /dev/termination-log"]}
`)
	p := w.ended(t, "messages", "Failed")
	for name, want := range map[string]string{
		"file": "from the file", "path": "elsewhere", "fallback": "one\ntwo\n", "fine": "", "long": "",
	} {
		s, _ := p.Container(name)
		if s.State.Terminated == nil {
			t.Errorf("container %s: %s", name, told(p.Status))
			continue
		}
		got := s.State.Terminated.Message
		if name == "long" { // a fifth of the pod's 12 KiB, as five containers share it
			want = strings.Repeat("x", min(len(got), 4096))
			if len(got) < 2000 {
				t.Errorf("a long message has %d bytes left", len(got))
			}
		}
		if got != want {
			t.Errorf("container %s: message %q, want %q", name, got, want)
		}
	}
}
