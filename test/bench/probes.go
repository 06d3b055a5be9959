package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/kubelet"
	"fermata/internal/testkit/node"
)

// probes is what exec probes cost: pods under a real kubelet, each asked `true` once a second.
type probes struct {
	pods int
	// took is how long they were watched, done how many the kubelet counted as successful meanwhile.
	took time.Duration
	done int
	used
}

// used is processor time: of the runtime's processes, of all that they ran for the probes (the commands, and OCI runtimes), and of the kubelet.
type used struct{ runtime, ran, kubelet time.Duration }

func (u used) since(before used) used {
	return used{u.runtime - before.runtime, u.ran - before.ran, u.kubelet - before.kubelet}
}

// ofCore is a share of one core, in percent.
func (p probes) ofCore(used time.Duration) float64 { return 100 * used.Seconds() / p.took.Seconds() }

// each is processor time a probe.
func (p probes) each(used time.Duration) time.Duration { return used / time.Duration(max(p.done, 1)) }

// settle is how long probes run before they are watched.
const settle = 10 * time.Second

const probedPod = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: bench}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: %[2]s
    command: [sleep, "100000"]
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 5}
`

// measureProbes runs a kubelet with pods on a node and watches their probes.
func measureProbes(ctx context.Context, o options, n *node.Node) (p probes, err error) {
	if _, err := n.CRI.Pull(ctx, images.Busybox); err != nil {
		return p, err
	}
	k, err := kubelet.Start(ctx, kubelet.Options{Dir: filepath.Join(n.Dir, "k"), Endpoint: n.Endpoint, Cgroup: "/" + filepath.Base(n.Dir)})
	if err != nil {
		return p, err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, k.Stop(), n.CRI.RemoveAll(stopCtx), k.Remove())
	}()
	for i := range o.probes {
		name := fmt.Sprintf("p%d", i)
		if err := k.Apply(name+".yaml", fmt.Sprintf(probedPod, name, images.Busybox)); err != nil {
			return p, err
		}
	}
	if err := untilReady(ctx, k, o.probes); err != nil {
		return p, err
	}
	time.Sleep(settle)
	return watchProbes(ctx, o, n, k)
}

// watchProbes measures over a stretch of time.
func watchProbes(ctx context.Context, o options, n *node.Node, k *kubelet.Kubelet) (probes, error) {
	before, done, err := probeFigures(ctx, n, k)
	if err != nil {
		return probes{}, err
	}
	began := time.Now()
	select {
	case <-time.After(o.watch):
	case <-ctx.Done():
		return probes{}, ctx.Err()
	}
	took := time.Since(began)
	after, doneAfter, err := probeFigures(ctx, n, k)
	return probes{pods: o.probes, took: took, done: doneAfter - done, used: after.since(before)}, err
}

func untilReady(ctx context.Context, k *kubelet.Kubelet, pods int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := k.Pods(ctx)
		if err != nil {
			return err
		}
		ready := 0
		for _, pod := range all {
			if pod.Condition("Ready") == "True" {
				ready++
			}
		}
		if ready == pods {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d pods are ready: %w", ready, pods, ctx.Err())
		case <-tick.C:
		}
	}
}

// successful is how the kubelet counts probes.
var successful = regexp.MustCompile(`(?m)^prober_probe_total\{.*probe_type="Readiness".*result="successful"\} (\d+)`)

// probeFigures are the processor time used so far, and how many probes there have been.
func probeFigures(ctx context.Context, n *node.Node, k *kubelet.Kubelet) (u used, done int, err error) {
	for _, pid := range n.Processes() {
		own, children := cpuOf(pid)
		u.runtime += own
		u.ran += children
	}
	u.kubelet, _ = cpuOf(k.PID())
	metrics, err := k.Get(ctx, "/metrics/probes")
	if err != nil {
		return u, 0, err
	}
	for _, m := range successful.FindAllSubmatch(metrics, -1) {
		count, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return u, 0, err
		}
		done += count
	}
	return u, done, nil
}

// cpuOf is a process's processor time, and that of the children it has waited for (proc_pid_stat(5), in ticks of 10 ms).
func cpuOf(pid int) (own, children time.Duration) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 15 {
		return 0, 0
	}
	ticks := func(i int) time.Duration {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		return time.Duration(n) * 10 * time.Millisecond
	}
	return ticks(11) + ticks(12), ticks(13) + ticks(14)
}
