package kubelet

import (
	"os"
	"strings"
	"testing"

	"fermata/internal/testkit/kubelet"
)

func hostNamespaces(t *testing.T, w *world) {
	w.pod(t, "host", `
hostNetwork: true
hostPID: true
hostIPC: true
containers: [{name: main, image: <busybox>, command: [sleep, "1000"]}]
`)
	w.pod(t, "own", "containers: [{name: main, image: <busybox>, command: [sleep, \"1000\"]}]")
	w.ready(t, "host")
	w.ready(t, "own")
	for _, kind := range []string{"net", "pid", "ipc"} {
		want, err := os.Readlink("/proc/self/ns/" + kind)
		check(t, err)
		if got := w.exec(t, "host", "main", "readlink", "/proc/self/ns/"+kind); got != want {
			t.Errorf("%s: %s, the host's is %s", kind, got, want)
		}
		if got := w.exec(t, "own", "main", "readlink", "/proc/self/ns/"+kind); got == want {
			t.Errorf("%s: a pod of its own is in the host's", kind)
		}
	}
}

func sharedProcesses(t *testing.T, w *world) {
	w.pod(t, "shared", `
shareProcessNamespace: true
containers:
- {name: one, image: <busybox>, command: [sleep, "1111"]}
- {name: two, image: <busybox>, command: [sleep, "2222"]}
`)
	w.ready(t, "shared")
	seen := w.exec(t, "shared", "one", "ps", "-ef")
	if !strings.Contains(seen, "sleep 2222") || !strings.Contains(seen, "sleep 1111") || !strings.Contains(seen, "pause") {
		t.Errorf("one of the containers sees:\n%s", seen)
	}
	if first := w.exec(t, "shared", "two", "cat", "/proc/1/comm"); !strings.Contains(first, "pause") {
		t.Errorf("the first process is %q", first)
	}
	w.exec(t, "shared", "one", "sh", "-c", "kill $(ps -ef | awk '/sleep 222[2]/ {print $1}')")
	s := w.container(t, "shared", "two", func(s kubelet.ContainerStatus) bool { return s.RestartCount == 1 && s.State.Running != nil })
	if last := s.LastState.Terminated; last == nil || last.ExitCode != 143 {
		t.Errorf("the signalled one ended as %+v", last)
	}
	if s := w.container(t, "shared", "one", func(kubelet.ContainerStatus) bool { return true }); s.RestartCount != 0 {
		t.Error("the other one was started again")
	}
}
