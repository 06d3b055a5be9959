package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Nothing a pod does needs the daemon: with it gone, containers run, their logs grow and their exit codes are kept; the next daemon
// knows all of it and can end them.
func TestAKilledDaemonLosesNothing(t *testing.T) {
	n := start(t)
	pods := atMost(20)
	flag := filepath.Join(n.Dir, "go") // containers end when the file appears, which is while no daemon is there
	var all []*podOf
	var ids, exits []string
	for i := range pods {
		p, _ := pod(t, n, fmt.Sprintf("kept%d", i))
		all = append(all, p)
		ids = append(ids, p.run(t, shell("ticker", "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done")))
		ender := shell("ender", fmt.Sprintf("while ! [ -e /host/go ]; do sleep 0.1; done; echo ended; exit %d", i+1))
		ender.Mounts = []*runtimeapi.Mount{{HostPath: n.Dir, ContainerPath: "/host", Readonly: true}}
		exits = append(exits, p.run(t, ender))
	}
	check(t, n.Kill())
	sizes := make([]int, pods)
	for i, p := range all {
		sizes[i] = len(p.lines(t, "ticker"))
	}
	check(t, os.WriteFile(flag, nil, 0o644))
	for i, p := range all {
		eventually(t, "logs grow without a daemon", func() (bool, string) {
			now, end := len(p.lines(t, "ticker")), p.lines(t, "ender")
			return now > sizes[i]+2 && strings.Join(end, "") == "stdout ended", fmt.Sprint(now, " lines, were ", sizes[i], "; ", end)
		})
	}
	began := time.Now()
	check(t, n.Restart(t.Context()))
	t.Logf("ready again after %v", time.Since(began))
	checkExits(t, n, ids, exits)
	listed, err := n.CRI.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}},
	})
	check(t, err)
	if len(listed.GetItems()) != pods {
		t.Errorf("%d pods ready, want %d", len(listed.GetItems()), pods)
	}
	for i, p := range all {
		if out, err := n.CRI.Exec(t.Context(), ids[i], "echo", "-n", "still"); err != nil || out != "still" {
			t.Errorf("exec in pod %d after the restart: %q %v", i, out, err)
		}
		checkTicks(t, p)
		_, err := n.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: ids[i]})
		check(t, err)
		status, err := n.CRI.State(t.Context(), ids[i])
		check(t, err)
		if status.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || status.GetExitCode() != 137 {
			t.Errorf("pod %d: after StopContainer: %v, exit code %d", i, status.GetState(), status.GetExitCode())
		}
	}
}

// checkTicks reads the numbers in the log: none missing, none twice, though the daemon went and came.
func checkTicks(t *testing.T, p *podOf) {
	t.Helper()
	for i, line := range p.lines(t, "ticker") {
		if want := fmt.Sprintf("stdout tick %d", i+1); line != want {
			t.Errorf("%s: line %d is %q, want %q", p.config.GetMetadata().GetName(), i+1, line, want)
			return
		}
	}
}

// checkExits asks the new daemon about containers that run on and those that ended while there was none.
func checkExits(t *testing.T, n *world, running, ended []string) {
	t.Helper()
	for i := range running {
		status, err := n.CRI.State(t.Context(), running[i])
		check(t, err)
		if status.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("container %d is %v (%s), was left running", i, status.GetState(), status.GetReason())
		}
		status, err = n.CRI.WaitExited(t.Context(), ended[i])
		check(t, err)
		if status.GetExitCode() != int32(i+1) {
			t.Errorf("container %d ended with %d (%s), want %d", i, status.GetExitCode(), status.GetReason(), i+1)
		}
	}
}
