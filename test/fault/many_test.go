package fault

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

var podsFlag = flag.Int("pods", 60, "pods whose daemon is killed")

// readyLimit is how long a daemon may take to be ready, whatever it finds.
const readyLimit = time.Second

// A killed daemon's successor is ready in under a second, however many pods there are, and all are as they were. A record that cannot be read costs its pod only.
func TestManyPodsOutliveTheDaemon(t *testing.T) {
	w := start(t, "")
	first, err := w.CRI.RunPod(t.Context(), cri.PodConfig("first", ""))
	check(t, err)
	check(t, w.CRI.RemovePod(t.Context(), first))
	w.baseline(t)
	began := time.Now()
	w.runMany(t, *podsFlag)
	t.Logf("%d pods with a container each in %v", *podsFlag, time.Since(began).Round(time.Millisecond))
	before := w.facts(t)
	check(t, w.Kill())
	w.readyInTime(t, "with all pods as they were")
	compareFacts(t, before, w.facts(t))

	check(t, w.Kill())
	damages := []struct {
		name string
		do   func([]byte) []byte
	}{
		{"truncated", func(b []byte) []byte { return b[:len(b)/2] }},
		{"not JSON", func(b []byte) []byte { return append([]byte("["), b...) }},
		{"of a newer major version", func(b []byte) []byte {
			return []byte(strings.Replace(string(b), `"version": "1.`, `"version": "2.`, 1))
		}},
	}
	pods := slices.Sorted(maps.Keys(before))
	records := map[string][]byte{}
	for i, d := range damages {
		path := filepath.Join(w.Dir, "r/pods", pods[i*len(pods)/len(damages)], "pod.json")
		b, err := os.ReadFile(path)
		check(t, err)
		records[path] = b
		if damaged := d.do(b); string(damaged) == string(b) {
			t.Fatalf("%s: the record of %s stays what it was", d.name, path)
		} else {
			check(t, os.WriteFile(path, damaged, 0o600))
		}
	}
	w.readyInTime(t, "with three records that cannot be read")
	said, err := w.Doctor(t.Context())
	if err == nil {
		t.Errorf("doctor finds nothing: %s", said)
	}
	rest := maps.Clone(before)
	for path := range records {
		id := filepath.Base(filepath.Dir(path))
		delete(rest, id)
		if !strings.Contains(said, id+"/pod.json.broken-") {
			t.Errorf("doctor does not name the record of %s:\n%s", id, said)
		}
	}
	if n := strings.Count(said, "pod.json.broken-"); n != len(records) {
		t.Errorf("doctor names %d records, %d are broken:\n%s", n, len(records), said)
	}
	compareFacts(t, rest, w.facts(t))
	t.Logf("doctor:\n%s", said)
	w.putBack(t, records)
}

// putBack undoes the damage to records, and removes all pods: nothing is left.
func (w *world) putBack(t *testing.T, records map[string][]byte) {
	t.Helper()
	check(t, w.Kill())
	for path, b := range records {
		aside, err := filepath.Glob(path + ".broken-*")
		check(t, err)
		for _, a := range aside {
			check(t, os.Remove(a))
		}
		check(t, os.WriteFile(path, b, 0o600))
	}
	w.readyInTime(t, "with the records put back")
	for path := range records {
		if _, err := w.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: filepath.Base(filepath.Dir(path))}); err != nil {
			t.Errorf("a pod whose record was put back: %v", err)
		}
	}
	began := time.Now()
	check(t, w.CRI.RemoveAll(t.Context()))
	t.Logf("all removed one by one in %v", time.Since(began).Round(time.Millisecond))
	if said, err := w.Doctor(t.Context()); err != nil {
		t.Errorf("doctor: %v\n%s", err, said)
	}
	left, err := w.left(t.Context())
	check(t, err)
	if len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
}

// readyInTime starts the daemon again.
func (w *world) readyInTime(t *testing.T, how string) {
	t.Helper()
	began := time.Now()
	check(t, w.Restart(t.Context()))
	took, load := time.Since(began), "?"
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = strings.Fields(string(b))[0]
	}
	t.Logf("ready %s after %v (the machine's load: %s)", how, took.Round(time.Millisecond), load)
	if took > readyLimit {
		t.Errorf("ready %s after %v, in a machine of load %s", how, took, load)
	}
}

// runMany runs pods with a container each, a few at a time.
func (w *world) runMany(t *testing.T, pods int) {
	t.Helper()
	numbers := make(chan int)
	var runners sync.WaitGroup
	for range 8 {
		runners.Go(func() {
			for i := range numbers {
				config := cri.PodConfig(fmt.Sprintf("many%d", i), filepath.Join(w.Dir, "logs", fmt.Sprint(i)))
				pod, err := w.CRI.RunPod(t.Context(), config)
				if err == nil {
					_, err = w.CRI.Run(t.Context(), pod, config, cri.ContainerConfig("main", images.Busybox, "sleep", "100000"))
				}
				if err != nil {
					t.Errorf("pod %d: %v", i, err)
				}
			}
		})
	}
	for i := range pods {
		numbers <- i
	}
	close(numbers)
	runners.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// facts say of each pod what must not change.
func (w *world) facts(t *testing.T) map[string]string {
	t.Helper()
	facts := map[string]string{}
	list, err := w.CRI.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	check(t, err)
	for _, p := range list.GetItems() {
		status, err := w.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.GetId(), Verbose: true})
		check(t, err)
		s := status.GetStatus()
		facts[p.GetId()] = fmt.Sprintf("%v at %s since %d, pause %s", s.GetState(), s.GetNetwork().GetIp(), s.GetCreatedAt(), pidOf(status.GetInfo()["info"]))
	}
	containers, err := w.CRI.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	check(t, err)
	for _, c := range containers.GetContainers() {
		facts[c.GetPodSandboxId()] += w.containerFacts(t.Context(), t, c.GetId())
	}
	return facts
}

func (w *world) containerFacts(ctx context.Context, t *testing.T, id string) string {
	t.Helper()
	status, err := w.CRI.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	check(t, err)
	s, pid := status.GetStatus(), pidOf(status.GetInfo()["info"])
	return fmt.Sprintf("; container %s: %v since %d, process %s (%s)", id, s.GetState(), s.GetStartedAt(), pid, startOf(pid))
}

// startOf is when a process was started, in the kernel's ticks: another one with its number has another.
func startOf(pid string) string {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return err.Error()
	}
	return strings.Fields(string(b[strings.LastIndex(string(b), ")")+1:]))[19]
}

func compareFacts(t *testing.T, before, after map[string]string) {
	t.Helper()
	for id, was := range before {
		if is := after[id]; is != was {
			t.Errorf("pod %s was %s\nand is %q", id, was, is)
		}
	}
	for id := range after {
		if _, was := before[id]; !was {
			t.Errorf("there is another pod: %s", id)
		}
	}
}
