package e2e

import (
	"context"
	"errors"
	"fmt"
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

// podOf is a pod of a test.
type podOf struct {
	n      *world
	id     string
	config *runtimeapi.PodSandboxConfig
	logs   string
}

// run creates and starts a container of busybox.
func (p *podOf) run(t *testing.T, ctr *runtimeapi.ContainerConfig) string {
	t.Helper()
	id, err := p.n.CRI.Run(t.Context(), p.id, p.config, ctr)
	check(t, err)
	return id
}

// shell is a container that runs a script.
func shell(name, script string) *runtimeapi.ContainerConfig {
	return cri.ContainerConfig(name, images.Busybox, "sh", "-c", script)
}

// lines are a container's whole log lines so far, without time and tag, as "stdout text".
func (p *podOf) lines(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.logs, name+".log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		text, whole := strings.CutSuffix(line, "\n")
		if !whole {
			break // being written
		}
		fields := strings.SplitN(text, " ", 4)
		if len(fields) != 4 {
			t.Fatalf("log of %s: line %q is not CRI's form", name, line)
		}
		if _, err := time.Parse(time.RFC3339Nano, fields[0]); err != nil {
			t.Errorf("log of %s: %v", name, err)
		}
		lines = append(lines, fields[1]+" "+fields[3])
	}
	return lines
}

// eventually asks until the answer is yes or half a minute is over.
func eventually(t *testing.T, what string, ask func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		yes, saw := ask()
		if yes {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in 30 s; last seen: %s", what, saw)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestContainersOfAPodReachEachOtherOverLocalhost(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "localhost")
	p.run(t, shell("server", "while true; do echo served | nc -l -p 8080; done"))
	client := p.run(t, shell("client", "sleep 1000"))
	eventually(t, "an answer from the other container", func() (bool, string) {
		out, err := n.CRI.Exec(t.Context(), client, "sh", "-c", "echo | nc 127.0.0.1 8080")
		return out == "served\n", fmt.Sprint(out, err)
	})
}

func TestANonRootContainerOpensItsOutputByName(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "nonroot")
	ctr := shell("main", "id -u; echo out >/dev/stdout; echo err >/dev/stderr")
	ctr.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	status, err := n.CRI.WaitExited(t.Context(), p.run(t, ctr))
	check(t, err)
	if status.GetExitCode() != 0 {
		t.Errorf("exit code %d %s", status.GetExitCode(), status.GetReason())
	}
	got := p.lines(t, "main") // the order of lines of one stream is kept; between the two there is none
	slices.SortStableFunc(got, func(a, b string) int { return strings.Compare(a[:6], b[:6]) })
	if want := "stderr err; stdout 1000; stdout out"; strings.Join(got, "; ") != want {
		t.Errorf("log: %q, want %q", got, want)
	}
}

func TestAContainersEndIsToldAsItWas(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "ends")
	for _, tt := range []struct {
		name, script string
		memory       int64
		code         int32
		reason       string
	}{
		{"success", "exit 0", 0, 0, "Completed"},
		{"failure", "exit 7", 0, 7, "Error"},
		{"signal", "kill -TERM $$; sleep 10", 0, 143, "Error"},
		{"memory", "dd if=/dev/zero of=/dev/null bs=60M", 20 << 20, 137, "OOMKilled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctr := shell(tt.name, "trap 'exit 143' TERM; "+tt.script)
			ctr.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: tt.memory, MemorySwapLimitInBytes: tt.memory}
			status, err := n.CRI.WaitExited(t.Context(), p.run(t, ctr))
			check(t, err)
			if status.GetExitCode() != tt.code || status.GetReason() != tt.reason {
				t.Errorf("exit code %d %s, want %d %s", status.GetExitCode(), status.GetReason(), tt.code, tt.reason)
			}
			if status.GetFinishedAt() < status.GetStartedAt() || status.GetStartedAt() == 0 {
				t.Errorf("started %d, finished %d", status.GetStartedAt(), status.GetFinishedAt())
			}
		})
	}
}

func TestLimitsAreTheKernels(t *testing.T) {
	n := start(t)
	p, _ := pod(t, n, "limits")
	ctr := shell("main", "sleep 1000")
	ctr.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512}
	id := p.run(t, ctr)
	for _, tt := range []struct{ what, v2, v1, want2, want1 string }{
		{"memory", "memory.max", "memory/memory.limit_in_bytes", "67108864", "67108864"},
		{"CPU quota", "cpu.max", "cpu/cpu.cfs_quota_us", "50000 100000", "50000"},
	} {
		out, err := n.CRI.Exec(t.Context(), id, "sh", "-c", "cat /sys/fs/cgroup/"+tt.v2+" 2>/dev/null || cat /sys/fs/cgroup/"+tt.v1)
		out = strings.TrimSpace(out)
		if err != nil || out != tt.want2 && out != tt.want1 {
			t.Errorf("%s: the container sees %q %v, want %q", tt.what, out, err, tt.want2)
		}
	}
}

// atMost is n, or a tenth where the processor is emulated.
func atMost(n int) int {
	if os.Getenv("FERMATA_TEST_SLOW") != "" {
		return max(n/10, 5)
	}
	return n
}

func TestManyPodsInParallelLeaveNothing(t *testing.T) {
	n := start(t)                           // its end looks for what they left
	n.liveTogether(t, max(atMost(200), 40)) // more than the descriptors that a daemon may keep for next time
}

// liveTogether makes pods and removes them, 16 at a time.
func (w *world) liveTogether(t *testing.T, pods int) {
	t.Helper()
	work := make(chan int, pods)
	for i := range pods {
		work <- i
	}
	close(work)
	errs := make(chan error, pods)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range work {
				errs <- live(t.Context(), w, i)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

// live makes a pod with a container, uses it and removes it, every fourth time by RemovePodSandbox alone.
func live(ctx context.Context, n *world, i int) error {
	config := cri.PodConfig("many", filepath.Join(n.Dir, "logs", fmt.Sprint(i)))
	pod, err := n.CRI.RunPod(ctx, config)
	if err != nil {
		return fmt.Errorf("pod %d: run: %w", i, err)
	}
	id, err := n.CRI.Run(ctx, pod, config, shell("main", "echo hello; exec sleep 1000"))
	if err != nil {
		return fmt.Errorf("pod %d: container: %w", i, err)
	}
	out, err := n.CRI.Exec(ctx, id, "echo", "-n", "ran")
	if err == nil && out != "ran" {
		err = fmt.Errorf("wrote %q", out)
	}
	if err != nil {
		return fmt.Errorf("pod %d: exec: %w", i, err)
	}
	if i%4 != 0 {
		if _, err := n.CRI.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			return fmt.Errorf("pod %d: stop: %w", i, err)
		}
	}
	if _, err := n.CRI.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		return fmt.Errorf("pod %d: remove: %w", i, err)
	}
	if _, err := n.CRI.State(ctx, id); err == nil {
		return errors.New("a container outlives its pod")
	}
	return nil
}
