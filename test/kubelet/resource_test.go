package kubelet

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/kubelet"
)

// allowance is what cgroup files say, as written there.
type allowance struct{ quota, shares, memory string }

// group is the cgroup's directory in a hierarchy, by its name: a container's ID, or "pod" and the pod's UID. "" when there is none.
func (w *world) group(controller, name string) (found string) {
	root := filepath.Join("/sys/fs/cgroup", controller, w.kubelet.Cgroup)
	filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == name {
			found = path
			return fs.SkipAll
		}
		return nil // others come and go
	})
	return found
}

// allowed reads what a cgroup allows.
func (w *world) allowed(t *testing.T, name string) allowance {
	t.Helper()
	read := func(controller, file string) string {
		data, err := os.ReadFile(filepath.Join(w.group(controller, name), file))
		check(t, err)
		return strings.TrimSpace(string(data))
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		quota, _, _ := strings.Cut(read("", "cpu.max"), " ")
		return allowance{quota: quota, shares: read("", "cpu.weight"), memory: read("", "memory.max")}
	}
	return allowance{quota: read("cpu", "cpu.cfs_quota_us"), shares: read("cpu", "cpu.shares"), memory: read("memory", "memory.limit_in_bytes")}
}

// shares are CPU shares, or on cgroup v2 the weight that stands for them.
func shares(v1, v2 string) string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return v2
	}
	return v1
}

func resources(t *testing.T, w *world) {
	w.pod(t, "resources", `
containers:
- {name: one, image: <busybox>, command: [sleep, "1000"], resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 200m, memory: 64Mi}}}
- {name: two, image: <busybox>, command: [sleep, "1000"], resources: {requests: {cpu: 300m, memory: 16Mi}, limits: {cpu: 300m, memory: 32Mi}}}
`)
	p := w.ready(t, "resources")
	one, _ := p.Container("one")
	if got, want := w.allowed(t, one.ID()), (allowance{"20000", shares("102", "17"), "67108864"}); got != want {
		t.Errorf("the container has %+v, want %+v", got, want)
	}
	if got, want := w.allowed(t, "pod"+p.Metadata.UID), (allowance{"50000", shares("409", "59"), "100663296"}); got != want {
		t.Errorf("the pod has %+v, want %+v", got, want)
	}
	if one.Resources == nil || one.Resources.Limits["memory"] != "64Mi" || one.Resources.Limits["cpu"] != "200m" {
		t.Errorf("the status says %s", told(p.Status))
	}
}

func outOfMemory(t *testing.T, w *world) {
	w.pod(t, "oom", `
restartPolicy: Never
containers: [{name: main, image: <busybox>, command: [sh, -c, "tail /dev/zero"], resources: {limits: {memory: 32Mi}}}]
`)
	p := w.ended(t, "oom", "Failed")
	if s, _ := p.Container("main"); s.State.Terminated == nil || s.State.Terminated.Reason != "OOMKilled" || s.State.Terminated.ExitCode != 137 {
		t.Errorf("the end is told as %s", told(p.Status))
	}
}

// A static pod is another one with each change of its manifest, unless the manifest names its UID.
func resize(t *testing.T, w *world) {
	const spec = `
containers:
- name: main
  image: <busybox>
  command: [sleep, "1000"]
  resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: NotRequired}]
  resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: <limit>, memory: 64Mi}}
`
	apply := func(limit, memory string) {
		text := strings.NewReplacer("<limit>", limit, "64Mi", memory).Replace(spec)
		check(t, w.kubelet.Apply("resize.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: resize, namespace: test, uid: 4d2d5a5e-resize}\n"+w.spec("resize", text)))
	}
	apply("200m", "64Mi")
	p := w.ready(t, "resize")
	before, _ := p.Container("main")
	apply("400m", "128Mi")
	after := w.container(t, "resize", "main", func(s kubelet.ContainerStatus) bool {
		return s.Resources != nil && s.Resources.Limits["cpu"] == "400m" && s.Resources.Limits["memory"] == "128Mi"
	})
	if after.ID() != before.ID() || after.RestartCount != 0 {
		t.Errorf("the container is another one: %s", told(p.Status))
	}
	want := allowance{"40000", shares("102", "17"), "134217728"}
	deadline := time.Now().Add(10 * time.Second)
	for w.allowed(t, after.ID()) != want && time.Now().Before(deadline) {
		<-time.After(50 * time.Millisecond)
	}
	if got := w.allowed(t, after.ID()); got != want {
		t.Errorf("the cgroup has %+v, want %+v", got, want)
	}
}
