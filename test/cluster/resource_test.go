package cluster

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func (w *world) resize(t *testing.T) {
	w.apply(t, pod("elastic", "a", strings.TrimRight(sleeper, "\n")+`
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 100m, memory: 64Mi}}
`))
	w.ready(t, "pod/elastic")
	container := func(field string) string {
		return w.kubectl(t, "get", "pod", "elastic", "-o", "jsonpath={.status.containerStatuses[0]."+field+"}")
	}
	id := container("containerID")
	_, bare, _ := strings.Cut(id, "://")
	if cpu, memory := limits(t, bare); cpu != "10000" || memory != "67108864" {
		t.Errorf("the cgroup's limits are %s and %s", cpu, memory)
	}
	w.kubectl(t, "patch", "pod", "elastic", "--subresource", "resize", "-p", `{"spec":{"containers":[{"name":"main","resources":`+
		`{"requests":{"cpu":"250m","memory":"96Mi"},"limits":{"cpu":"250m","memory":"96Mi"}}}]}}`)
	for _, what := range []string{"limits.cpu=250m", "limits.memory=96Mi", "requests.cpu=250m"} {
		w.kubectl(t, "wait", "--for=jsonpath={.status.containerStatuses[0].resources."+strings.Replace(what, "=", "}=", 1), "pod/elastic", "--timeout=60s")
	}
	if cpu, memory := limits(t, bare); cpu != "25000" || memory != "100663296" {
		t.Errorf("after the resize the cgroup's limits are %s and %s", cpu, memory)
	}
	if container("containerID") != id || container("restartCount") != "0" {
		t.Errorf("the container is %s, was %s; %s restarts", container("containerID"), id, container("restartCount"))
	}
	w.kubectl(t, "delete", "pod", "elastic", "--wait=false")
}

// limits reads a container's CPU quota in a period of 100 ms, in µs, and its memory limit in bytes from its cgroup, of either version.
func limits(t *testing.T, id string) (cpu, memory string) {
	t.Helper()
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || filepath.Base(path) != id {
			return nil // gone meanwhile, or another's
		}
		for _, file := range []string{"cpu.cfs_quota_us", "cpu.max"} {
			if value, err := os.ReadFile(filepath.Join(path, file)); err == nil {
				cpu = strings.Fields(string(value))[0]
			}
		}
		for _, file := range []string{"memory.limit_in_bytes", "memory.max"} {
			if value, err := os.ReadFile(filepath.Join(path, file)); err == nil {
				memory = strings.TrimSpace(string(value))
			}
		}
		return nil
	})
	return cpu, memory
}

// userNamespace runs when the runtime says that it can: the kernel, or the filesystem of the images, may not.
func (w *world) userNamespace(t *testing.T) {
	if w.kubectl(t, "get", "node", "a", "-o", `jsonpath={.status.runtimeHandlers[?(@.name=="")].features.userNamespaces}`) != "true" {
		t.Log("the runtime reports no user namespaces")
		return
	}
	w.apply(t, pod("apart", "a", sleeper+"  hostUsers: false\n"))
	w.ready(t, "pod/apart")
	got := strings.Fields(w.kubectl(t, "exec", "apart", "--", "sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/x; stat -c %u /tmp/x"))
	if len(got) != 5 || got[0] != "0" || got[1] != "0" || got[2] == "0" || got[3] != "65536" || got[4] != "0" {
		t.Errorf("user, map (inside, outside, length), owner of a new file: %v", got)
	}
	w.kubectl(t, "delete", "pod", "apart", "--wait=false")
}

func (w *world) metrics(t *testing.T) {
	for _, n := range w.Nodes {
		name := map[string]string{"a": "left", "b": "right"}[n.Name]
		until(t, func(ctx context.Context) error {
			answer, err := n.Kubelet.Get(ctx, "/metrics/resource")
			if err != nil {
				return err
			}
			for _, want := range []string{
				`container_cpu_usage_seconds_total{container="main",namespace="default",pod="` + name + `"} `,
				`container_memory_working_set_bytes{container="main",namespace="default",pod="` + name + `"} `,
				`pod_cpu_usage_seconds_total{namespace="default",pod="` + name + `"} `,
				`pod_memory_working_set_bytes{namespace="default",pod="` + name + `"} `,
				"node_cpu_usage_seconds_total ", "node_memory_working_set_bytes ", "resource_scrape_error 0",
			} {
				if !strings.Contains(string(answer), "\n"+want) {
					return fmt.Errorf("node %s: no %s in:\n%s", n.Name, want, answer)
				}
			}
			return nil
		})
	}
}
