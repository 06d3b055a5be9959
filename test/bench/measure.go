package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// subject is a runtime to measure.
type subject struct {
	name      string
	client    *cri.Client
	logs      string       // directory for container logs
	processes func() []int // the runtime's own; nil when memory cannot be measured
}

// The steps of a life, in order, and what is made of them.
const (
	runStep      = "RunPodSandbox"
	createStep   = "CreateContainer"
	startStep    = "StartContainer"
	runningSum   = "pod running (run + create + start)"
	firstLogStep = "first log line, from StartContainer"
	execStep     = "ExecSync true"
	stopStep     = "stop (container, pod)"
	removeStep   = "remove (container, pod)"
	lifeSum      = "whole life"
)

var rows = []string{runStep, createStep, startStep, runningSum, firstLogStep, execStep, stopStep, removeStep, lifeSum}

// life is how long each step of one pod's life took.
type life map[string]time.Duration

// result is all that was measured of a runtime.
type result struct {
	name       string
	sequential map[string]time.Duration // medians
	parallel   map[string]time.Duration // medians
	rate       float64                  // lives a second, in parallel
	memory     memory
	probes     probes // alone, if pods were probed
}

func measure(ctx context.Context, o options, s *subject) (*result, error) {
	if _, err := s.client.Pull(ctx, images.Busybox); err != nil {
		return nil, err
	}
	for range 2 { // caches, bridge, page cache
		if _, err := s.live(ctx); err != nil {
			return nil, err
		}
	}
	r := &result{name: s.name}
	if s.processes != nil { // first: what many lives leave in heaps is not idle pods'
		var err error
		if r.memory, err = s.idle(ctx, o.pods); err != nil {
			return nil, err
		}
	}
	var lives []life
	for range o.lives {
		l, err := s.live(ctx)
		if err != nil {
			return nil, err
		}
		lives = append(lives, l)
	}
	r.sequential = medians(lives)
	began := time.Now()
	lives, err := s.liveTogether(ctx, o.lives, o.parallel)
	if err != nil {
		return nil, err
	}
	r.rate = float64(len(lives)) / time.Since(began).Seconds()
	r.parallel = medians(lives)
	return r, nil
}

// live makes one pod, uses it and removes it.
func (s *subject) live(ctx context.Context) (life, error) {
	l, began := life{}, time.Now()
	c := s.client
	logs, err := os.MkdirTemp(s.logs, "logs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(logs)
	pod := cri.PodConfig("bench", logs)
	ctr := cri.ContainerConfig("main", images.Busybox, "sh", "-c", "echo hello; exec sleep 1000")
	step := func(name string, do func() error) {
		if err != nil {
			return
		}
		start := time.Now()
		if err = do(); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		l[name] = time.Since(start)
	}
	var podID, id string
	step(runStep, func() (err error) { podID, err = c.RunPod(ctx, pod); return })
	step(createStep, func() (err error) { id, err = c.Create(ctx, podID, pod, ctr); return })
	started := time.Now()
	step(startStep, func() error { return c.Start(ctx, id) })
	l[runningSum] = time.Since(began)
	step(firstLogStep, func() error { return waitForLine(ctx, filepath.Join(logs, "main.log"), "hello") })
	l[firstLogStep] = time.Since(started)
	step(execStep, func() error { _, err := c.Exec(ctx, id, "true"); return err })
	step(stopStep, func() error {
		_, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
		if err == nil {
			_, err = c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID})
		}
		return err
	})
	step(removeStep, func() error {
		_, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
		if err == nil {
			_, err = c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: podID})
		}
		return err
	})
	l[lifeSum] = time.Since(began)
	return l, err
}

// waitForLine looks for a line in a log until it is there. It looks often: what is measured is less than a millisecond.
func waitForLine(ctx context.Context, path, line string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for {
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(line)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("line %q in %s: %w", line, path, ctx.Err()), err)
		case <-tick.C:
		}
	}
}

// liveTogether lives n lives, parallel at a time.
func (s *subject) liveTogether(ctx context.Context, n, parallel int) ([]life, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var lives []life
	var failed []error
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	for range parallel {
		wg.Go(func() {
			for range work {
				l, err := s.live(ctx)
				mu.Lock()
				if err != nil {
					failed = append(failed, err)
				} else {
					lives = append(lives, l)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return lives, errors.Join(failed...)
}

// medians are those of each step.
func medians(lives []life) map[string]time.Duration {
	medians := map[string]time.Duration{}
	for _, row := range rows {
		var all []time.Duration
		for _, l := range lives {
			all = append(all, l[row])
		}
		slices.Sort(all)
		if len(all) != 0 {
			medians[row] = all[len(all)/2]
		}
	}
	return medians
}
