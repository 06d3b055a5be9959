package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// EVT-1, the sequence of containerd's TestContainerEvents: two that listen at once are told the same.
func TestEventsTellAPodsLife(t *testing.T) {
	n := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var streams [2]runtimeapi.RuntimeService_GetContainerEventsClient
	for i := range streams {
		var err error
		streams[i], err = n.CRI.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		check(t, err)
		_, err = streams[i].Header() // it listens
		check(t, err)
	}
	p, podID := pod(t, n, "events")
	id := p.run(t, shell("c", "exec sleep 1000"))
	_, err := n.CRI.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
	check(t, err)
	_, err = n.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	check(t, err)
	_, err = n.CRI.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID})
	check(t, err)
	_, err = n.CRI.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: podID})
	check(t, err)
	for i, s := range streams {
		for _, want := range []string{
			"pod CREATED SANDBOX_READY []", "pod STARTED SANDBOX_READY []", "c CREATED SANDBOX_READY [CONTAINER_CREATED]",
			"c STARTED SANDBOX_READY [CONTAINER_RUNNING]", "c STOPPED SANDBOX_READY [CONTAINER_EXITED]", "c DELETED SANDBOX_READY []",
			"pod STOPPED SANDBOX_NOTREADY []", "pod DELETED gone []",
		} {
			e, err := s.Recv()
			check(t, err)
			if got := eventLine(podID, id, e); got != want {
				t.Errorf("reader %d: %q, want %q", i, got, want)
			}
		}
	}
}

func eventLine(podID, id string, e *runtimeapi.ContainerEventResponse) string {
	of := map[string]string{podID: "pod", id: "c"}[e.GetContainerId()]
	sandbox := "gone"
	if e.GetPodSandboxStatus() != nil {
		sandbox = e.PodSandboxStatus.State.String()
	}
	states := []string{}
	for _, c := range e.GetContainersStatuses() {
		states = append(states, c.State.String())
	}
	what := strings.TrimSuffix(strings.TrimPrefix(e.GetContainerEventType().String(), "CONTAINER_"), "_EVENT")
	if e.GetCreatedAt() == 0 {
		what += " at no time"
	}
	return fmt.Sprintf("%s %s %s %v", of, what, sandbox, states)
}

func TestCrictlEvents(t *testing.T) {
	n := start(t)
	config, out := filepath.Join(n.Dir, "crictl.yaml"), filepath.Join(n.Dir, "events.json")
	check(t, os.WriteFile(config, nil, 0o644))
	file, err := os.Create(out)
	check(t, err)
	defer file.Close()
	cmd := exec.CommandContext(t.Context(), crictlPath(t), "--config", config, "--runtime-endpoint", n.Endpoint, "--image-endpoint", n.Endpoint, "events")
	cmd.Stdout = file
	check(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for i := 0; ; i++ { // crictl does not say from when it listens: pods come and go until it tells of one
		p, id := pod(t, n, fmt.Sprintf("seen%d", i))
		check(t, n.CRI.RemovePod(t.Context(), p.id))
		seen, err := os.ReadFile(out)
		check(t, err)
		if strings.Contains(string(seen), id) {
			break
		}
		if i == 500 {
			t.Fatalf("no event of %d pods: %s", i, seen)
		}
		time.Sleep(10 * time.Millisecond)
	}
	p, _ := pod(t, n, "whole")
	check(t, n.CRI.RemovePod(t.Context(), p.id))
	eventually(t, "the events by crictl", func() (bool, string) {
		seen, err := os.ReadFile(out)
		check(t, err)
		all := true
		for _, what := range []string{"CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"} {
			all = all && strings.Contains(string(seen), what)
		}
		return all, string(seen)
	})
	// A reader that stays does not keep the daemon from ending.
	began := time.Now()
	check(t, syscall.Kill(n.PID(), syscall.SIGTERM))
	eventually(t, "the daemon's end", func() (bool, string) { return !n.Running(), "it runs" })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the daemon took %v to end with a reader of events", took)
	}
	check(t, n.Restart(t.Context()))
	n.baseline(t) // without pods it took bridge and keeper away, which are new now
}
