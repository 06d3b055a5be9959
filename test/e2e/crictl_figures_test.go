package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// output is what crictl writes; the command must succeed.
func (s *session) output(t *testing.T, args ...string) string {
	t.Helper()
	cmd := s.command(t.Context(), args...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("crictl %s: %v\n%s%s", strings.Join(args, " "), err, out, &complaints)
	}
	return string(out)
}

// decode reads what crictl writes as JSON.
func (s *session) decode(t *testing.T, into any, args ...string) {
	t.Helper()
	if out := s.output(t, args...); json.Unmarshal([]byte(out), into) != nil {
		t.Fatalf("crictl %s: no JSON for %T:\n%s", strings.Join(args, " "), into, out)
	}
}

// number is a figure in protobuf's JSON form: {"value": "5"}.
type number struct {
	Value uint64 `json:",string"`
}

// What a person sees of figures with crictl is what the kernel counts.
func TestFiguresByHand(t *testing.T) {
	s := newSession(t)
	podID, id := s.container(t, "dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; touch /done; exec sleep 100000", nil)
	eventually(t, "the work to be done", func() (bool, string) {
		_, err := s.CRI.Exec(t.Context(), id, "test", "-e", "/done")
		return err == nil, ""
	})
	t.Run("stats", func(t *testing.T) { s.stats(t, id) })
	t.Run("statsp", func(t *testing.T) { s.statsp(t, podID, id) })
	t.Run("metricdescs and metricsp", func(t *testing.T) { s.metrics(t, podID, id) })
	t.Run("checkpoint", func(t *testing.T) { s.checkpoint(t, id) })
}

func (s *session) stats(t *testing.T, id string) {
	var all struct {
		Stats []struct {
			Attributes    struct{ ID string }
			CPU           struct{ UsageCoreNanoSeconds number }
			Memory        struct{ WorkingSetBytes, UsageBytes number }
			WritableLayer struct{ UsedBytes, InodesUsed number }
		}
	}
	s.decode(t, &all, "stats", "-o", "json", id)
	if len(all.Stats) != 1 || all.Stats[0].Attributes.ID != id {
		t.Fatalf("stats of %+v", all)
	}
	one, used := all.Stats[0], s.kernel(t, id)
	if cpu := one.CPU.UsageCoreNanoSeconds.Value; cpu < 1e6 || cpu > used.cpu {
		t.Errorf("%d ns of CPU, the kernel's count is %d now", cpu, used.cpu)
	}
	if one.Memory.UsageBytes.Value == 0 || one.Memory.WorkingSetBytes.Value > one.Memory.UsageBytes.Value {
		t.Errorf("memory %+v", one.Memory)
	}
	if one.WritableLayer.UsedBytes.Value < 3<<20 || one.WritableLayer.InodesUsed.Value < 3 { // the directory, file, done
		t.Errorf("writable layer %+v", one.WritableLayer)
	}
	table := s.output(t, "stats")
	if fields := strings.Fields(lastLine(table)); !strings.HasPrefix(id, fields[0]) || fields[1] != "main" {
		t.Errorf("as a table:\n%s", table)
	}
}

func (s *session) statsp(t *testing.T, podID, id string) {
	var all struct {
		Stats []struct {
			Attributes struct{ ID string }
			Linux      struct {
				CPU     struct{ UsageCoreNanoSeconds number }
				Memory  struct{ WorkingSetBytes number }
				Network struct {
					DefaultInterface struct {
						Name             string
						RxBytes, TxBytes number
					}
				}
				Process    struct{ ProcessCount number }
				Containers []struct{ Attributes struct{ ID string } }
			}
		}
	}
	s.decode(t, &all, "statsp", "-o", "json", "--id", podID)
	if len(all.Stats) != 1 || all.Stats[0].Attributes.ID != podID {
		t.Fatalf("stats of %+v", all)
	}
	linux := all.Stats[0].Linux
	if linux.CPU.UsageCoreNanoSeconds.Value < 1e6 || linux.Memory.WorkingSetBytes.Value == 0 || linux.Process.ProcessCount.Value != 2 { // pause, sleep
		t.Errorf("figures %+v", linux)
	}
	if linux.Network.DefaultInterface.Name != "eth0" || linux.Network.DefaultInterface.RxBytes.Value == 0 {
		t.Errorf("network %+v", linux.Network)
	}
	if len(linux.Containers) != 1 || linux.Containers[0].Attributes.ID != id {
		t.Errorf("containers %+v", linux.Containers)
	}
	table := s.output(t, "statsp")
	if fields := strings.Fields(lastLine(table)); len(fields) < 3 || !slices.ContainsFunc(fields, func(f string) bool { return len(f) > 5 && strings.HasPrefix(podID, f) }) {
		t.Errorf("as a table:\n%s", table)
	}
}

// metrics compares those that hardly move with the kernel's own files, before and after.
func (s *session) metrics(t *testing.T, podID, id string) {
	var described struct {
		Descriptors []struct {
			Name, Help string
			LabelKeys  []string
		}
	}
	s.decode(t, &described, "metricdescs")
	keys := map[string][]string{}
	for _, d := range described.Descriptors {
		keys[d.Name] = d.LabelKeys
	}
	if len(keys) != 58 {
		t.Errorf("%d descriptors, want 58", len(keys))
	}
	type metric struct {
		Name        string
		LabelValues []string
		Value       number
	}
	var all struct {
		PodMetrics []struct {
			PodSandboxID     string
			Metrics          []metric
			ContainerMetrics []struct {
				ContainerID string
				Metrics     []metric
			}
		}
	}
	before := s.kernel(t, id)
	s.decode(t, &all, "metricsp")
	after := s.kernel(t, id)
	if len(all.PodMetrics) != 1 || all.PodMetrics[0].PodSandboxID != podID || len(all.PodMetrics[0].ContainerMetrics) != 1 ||
		all.PodMetrics[0].ContainerMetrics[0].ContainerID != id {
		t.Fatalf("metrics of %+v", all)
	}
	values := map[string]uint64{}
	for _, m := range slices.Concat(all.PodMetrics[0].Metrics, all.PodMetrics[0].ContainerMetrics[0].Metrics) {
		values[m.Name] = m.Value.Value
		if len(m.LabelValues) != len(keys[m.Name]) {
			t.Errorf("%s has labels %q for %q", m.Name, m.LabelValues, keys[m.Name])
		}
	}
	for name, of := range map[string]func(counts) uint64{
		"container_cpu_usage_seconds_total":      func(c counts) uint64 { return c.cpu / 1e9 },
		"container_memory_usage_bytes":           func(c counts) uint64 { return c.memory },
		"container_memory_rss":                   func(c counts) uint64 { return c.rss },
		"container_memory_working_set_bytes":     func(c counts) uint64 { return c.memory - min(c.memory, c.inactive) },
		"container_network_receive_bytes_total":  func(c counts) uint64 { return c.received },
		"container_network_transmit_bytes_total": func(c counts) uint64 { return c.sent },
	} {
		low, high := min(of(before), of(after)), max(of(before), of(after))
		if got := values[name]; got < low || got > high {
			t.Errorf("%s is %d, the kernel has from %d to %d", name, got, low, high)
		}
	}
	for name, want := range map[string]uint64{"container_processes": 1, "container_threads": 1} {
		if values[name] != want {
			t.Errorf("%s is %d, want %d", name, values[name], want)
		}
	}
}

// checkpoint is refused with a reason, by an exit status and without a file.
func (s *session) checkpoint(t *testing.T, id string) {
	file := filepath.Join(s.Dir, "checkpoint.tar")
	out, err := s.command(t.Context(), "checkpoint", "--export", file, id).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Unimplemented") || !strings.Contains(string(out), "checkpoint") {
		t.Errorf("refused with %v and:\n%s", err, out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it left a file")
	}
	if status := s.output(t, "inspect", id); !strings.Contains(status, "CONTAINER_RUNNING") {
		t.Errorf("the container afterwards:\n%s", status)
	}
}

// Every step of a pod's life is told to whoever watches, in order.
func TestEventsByHand(t *testing.T) {
	s := newSession(t)
	cmd := s.command(t.Context(), "events", "--output", "go-template", "--template", "{{.containerId}} {{.containerEventType}}")
	events := watch(t, cmd)
	// The stream is there when an event of a pod that was made for it arrives.
	eventually(t, "crictl to watch", func() (bool, string) {
		_, id := pod(t, s.world, "first")
		check(t, s.CRI.RemovePod(t.Context(), id))
		select {
		case <-events:
			return true, ""
		case <-time.After(200 * time.Millisecond):
			return false, "no event"
		}
	})
	podID, id := s.container(t, "exit 0", nil)
	var got []string
	want := []string{
		podID + " CONTAINER_CREATED_EVENT", podID + " CONTAINER_STARTED_EVENT",
		id + " CONTAINER_CREATED_EVENT", id + " CONTAINER_STARTED_EVENT", id + " CONTAINER_STOPPED_EVENT",
		podID + " CONTAINER_STOPPED_EVENT", id + " CONTAINER_DELETED_EVENT", podID + " CONTAINER_DELETED_EVENT",
	}
	eventually(t, "the container to end", func() (bool, string) {
		r, err := s.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		check(t, err)
		return r.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED, r.Status.State.String()
	})
	s.output(t, "stopp", podID)
	s.output(t, "rm", id)
	s.output(t, "rmp", podID)
	for deadline := time.After(20 * time.Second); len(got) < len(want); {
		select {
		case line := <-events:
			if strings.HasPrefix(line, podID) || strings.HasPrefix(line, id) {
				got = append(got, line)
			}
		case <-deadline:
			t.Fatalf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// watch runs a command until the test's end and gives its lines.
func watch(t *testing.T, cmd *exec.Cmd) <-chan string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines, ended := make(chan string, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
	})
	return lines
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// counts are the kernel's figures of a container, from its own files: CPU in nanoseconds, the rest in bytes.
type counts struct{ cpu, memory, rss, inactive, received, sent uint64 }

func (w *world) kernel(t *testing.T, id string) counts {
	t.Helper()
	r, err := w.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	check(t, err)
	var info struct {
		Cgroup string
		PID    int
	}
	check(t, json.Unmarshal([]byte(r.Info["info"]), &info))
	c := counts{}
	if top := "/sys/fs/cgroup" + info.Cgroup; exists(top) {
		c.cpu = word(t, top+"/cpu.stat", "usage_usec", 1) * 1000
		c.memory, c.rss, c.inactive = word(t, top+"/memory.current", "", 0), word(t, top+"/memory.stat", "anon", 1), word(t, top+"/memory.stat", "inactive_file", 1)
	} else {
		memory := "/sys/fs/cgroup/memory" + info.Cgroup
		c.cpu = word(t, "/sys/fs/cgroup/cpuacct"+info.Cgroup+"/cpuacct.usage", "", 0)
		c.memory, c.rss = word(t, memory+"/memory.usage_in_bytes", "", 0), word(t, memory+"/memory.stat", "total_rss", 1)
		c.inactive = word(t, memory+"/memory.stat", "total_inactive_file", 1)
	}
	traffic := "/proc/" + strconv.Itoa(info.PID) + "/net/dev"
	c.received, c.sent = word(t, traffic, "eth0:", 1), word(t, traffic, "eth0:", 9)
	return c
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// word is a number in the line of a file that begins with a word; "" is the first.
func word(t *testing.T, path, first string, at int) uint64 {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > at && (first == "" || fields[0] == first) {
			n, err := strconv.ParseUint(fields[at], 10, 64)
			check(t, err)
			return n
		}
	}
	t.Fatalf("%s has no %q", path, first)
	return 0
}
