package kubelet

import (
	"strings"
	"testing"
)

// A kubelet without an API server refuses projected volumes, whatever their sources ("kube client is not configured"); the volume of one
// source is made by the same writer.
func downward(t *testing.T, w *world) {
	w.pod(t, "downward", `
volumes:
- name: all
  downwardAPI:
    defaultMode: 0440
    items:
    - {path: meta/name, fieldRef: {fieldPath: metadata.name}}
    - {path: meta/namespace, fieldRef: {fieldPath: metadata.namespace}, mode: 0400}
    - {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}
    - {path: uid, fieldRef: {fieldPath: metadata.uid}}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
containers:
- name: main
  image: <busybox>
  command: [sleep, "1000"]
  env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
  resources: {limits: {cpu: 250m}}
  volumeMounts: [{name: all, mountPath: /all, readOnly: true}, {name: memory, mountPath: /memory}]
`)
	p := w.ready(t, "downward")
	for file, want := range map[string]string{"meta/name": "downward-node", "meta/namespace": "test", "cpu": "250", "uid": p.Metadata.UID} {
		if got := w.exec(t, "downward", "main", "cat", "/all/"+file); got != want {
			t.Errorf("%s has %q, want %q", file, got, want)
		}
	}
	if got := w.exec(t, "downward", "main", "sh", "-c", "echo $IP; stat -L -c %a /all/uid /all/meta/namespace; touch /all/x 2>&1 || true"); !strings.HasPrefix(got, p.Status.PodIP+"\n440\n400\n") ||
		!strings.HasSuffix(got, "Read-only file system") {
		t.Errorf("address, modes and a write to a read-only volume: %q", got)
	}
	if got := w.exec(t, "downward", "main", "sh", "-c", "stat -f -c %T /memory; dd if=/dev/zero of=/memory/big bs=1M count=2 2>&1 | grep -o 'No space'"); got != "tmpfs\nNo space" {
		t.Errorf("a volume of 1 MiB in memory: %q", got)
	}
}

func subPaths(t *testing.T, w *world) {
	w.pod(t, "subpath", `
volumes: [{name: empty, emptyDir: {}}, {name: host, hostPath: {path: <dir>, type: DirectoryOrCreate}}]
initContainers:
- name: fill
  image: <busybox>
  command: [sh, -c, "mkdir -p /v/a/b /v/other; echo deep > /v/a/b/file; echo single > /v/single"]
  volumeMounts: [{name: empty, mountPath: /v}]
containers:
- name: main
  image: <busybox>
  command: [sleep, "1000"]
  env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  volumeMounts:
  - {name: empty, mountPath: /dir, subPath: a/b}
  - {name: empty, mountPath: /etc/single, subPath: single, readOnly: true}
  - {name: host, mountPath: /mine, subPathExpr: logs/$(NAME)}
- name: second
  image: <busybox>
  command: [sleep, "1000"]
  volumeMounts: [{name: empty, mountPath: /other, subPath: other}, {name: host, mountPath: /host, readOnly: true, recursiveReadOnly: IfPossible}]
`)
	w.ready(t, "subpath")
	if got := w.exec(t, "subpath", "main", "sh", "-c", "ls /dir; cat /dir/file /etc/single; echo x > /etc/single; echo from-pod > /mine/out"); got != "file\ndeep\nsingle" {
		t.Errorf("sub-paths of a volume: %q", got)
	}
	if got := w.exec(t, "subpath", "main", "cat", "/etc/single"); got != "single" {
		t.Errorf("a read-only sub-path was written: %q", got)
	}
	if got := w.file(t, "subpath", "logs/subpath-node/out"); got != "from-pod\n" {
		t.Errorf("a sub-path by the pod's name on the host has %q", got)
	}
	if got := w.exec(t, "subpath", "second", "sh", "-c", "cat /host/logs/subpath-node/out; touch /host/x 2>&1 || true; touch /other/y"); !strings.HasPrefix(got, "from-pod\n") ||
		!strings.HasSuffix(got, "Read-only file system") {
		t.Errorf("the second container: %q", got)
	}
}
