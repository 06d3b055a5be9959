package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
)

// The kubelet repeats a request whose answer it did not get, unchanged. Whatever a killed daemon had half done, the next one finishes
// or undoes: no request is refused for it ("name is reserved"), and when all pods are removed nothing is left.
func TestADaemonKilledInTheMiddleOfStartsRefusesNoRepetition(t *testing.T) {
	n := start(t)
	const workers = 6
	mapped := reported(t, n)
	kills := atMost(8)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	failed := make(chan error, workers)
	for worker := range workers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := persist(t.Context(), n, fmt.Sprintf("crash-%d-%d", worker, i), mapped && i%2 == 1); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for i := range kills {
		// Not synchronisation: the daemon is to be hit at various moments, and each is as good as another.
		time.Sleep(time.Duration(120+37*i) * time.Millisecond)
		if err := n.Kill(); err != nil {
			t.Error(err)
		}
		if err := n.Restart(t.Context()); err != nil {
			t.Errorf("start after kill %d: %v", i, err)
		}
	}
	stop()
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
}

// persist makes a pod, maybe with a user namespace, with a container and removes it, repeating every call as long as no daemon answers.
func persist(ctx context.Context, n *world, name string, mapped bool) error {
	config := cri.PodConfig(name, filepath.Join(n.Dir, "logs", name))
	if mapped {
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids(hostUID), Gids: ids(hostGID)}
	}
	ctr := shell("main", "echo hello; exec sleep 1000")
	var pod, id string
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"RunPodSandbox", func() (err error) { pod, err = n.CRI.RunPod(ctx, config); return }},
		{"CreateContainer", func() (err error) { id, err = n.CRI.Create(ctx, pod, config, ctr); return }},
		{"StartContainer", func() error { return startOnce(ctx, n, id) }},
		{"StopPodSandbox", func() error {
			_, err := n.CRI.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := n.CRI.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		}},
	} {
		if err := repeat(ctx, step.do); err != nil {
			return fmt.Errorf("%s: %s: %w", name, step.name, err)
		}
	}
	return nil
}

// repeat calls until an answer comes that is the runtime's and not the connection's.
func repeat(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := do()
		if status.Code(err) != codes.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// startOnce starts a container; one that the killed daemon did start is as good.
func startOnce(ctx context.Context, n *world, id string) error {
	err := n.CRI.Start(ctx, id)
	if err == nil || status.Code(err) == codes.Unavailable {
		return err
	}
	s, stateErr := n.CRI.State(ctx, id)
	if stateErr == nil && s.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	return fmt.Errorf("%w; its state: %v %s %q, exit code %d, %v", err, s.GetState(), s.GetReason(), s.GetMessage(), s.GetExitCode(), stateErr)
}
