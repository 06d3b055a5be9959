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

// Every volume that the kubelet gives is idmapped, the files of its own (hosts, the termination log) with them.
func ownUsers(t *testing.T, w *world) {
	w.pod(t, "users", `
hostUsers: false
volumes:
- {name: empty, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory}}
- {name: fields, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
- {name: host, hostPath: {path: <dir>, type: DirectoryOrCreate}}
containers:
- name: main
  image: <busybox>
  command: [sh, -c, "echo started; exec sleep 1000"]
  readinessProbe: {exec: {command: [test, -O, /empty]}, periodSeconds: 1}
  volumeMounts: [{name: empty, mountPath: /empty}, {name: memory, mountPath: /memory}, {name: fields, mountPath: /fields}, {name: host, mountPath: /host}]
`)
	w.ready(t, "users")
	inside := func(command string) string { return w.exec(t, "users", "main", "sh", "-c", command) }
	mapping := strings.Fields(inside("cat /proc/self/uid_map"))
	if len(mapping) != 3 || mapping[0] != "0" || mapping[1] == "0" || mapping[2] != "65536" {
		t.Errorf("the pod's users: %q", mapping)
	}
	if got := inside("stat -c %u:%g / /empty /memory /fields /fields/name /host /etc/hosts /dev/termination-log | sort -u"); got != "0:0" {
		t.Errorf("owners seen inside: %q", got)
	}
	if got := inside("cat /fields/name; echo; touch /empty/x /memory/y /host/z; chown 5:6 /host/z; stat -c %u:%g /host/z"); got != "users-node\n5:6" {
		t.Errorf("files in volumes: %q", got)
	}
}
