// Command bench measures what a pod costs on a CRI runtime: the medians of each step of a pod's life, lives a second in parallel, and
// memory. Several runtimes are measured in one run on one machine, so that their figures can be compared.
//
//	go run ./test/bench -runtimes fermata,containerd
//	go run ./test/bench -runtimes fermata,containerd -probes 50     # exec probes: processor time of runtime and kubelet
//	go run ./test/bench -endpoint unix:///run/fermata/fermata.sock   # a runtime that runs already
//
// Steps are what the kubelet does: RunPodSandbox with the network, CreateContainer, StartContainer, ExecSync, StopContainer and
// StopPodSandbox, RemoveContainer and RemovePodSandbox. A pod is "running" when the first three have returned. Memory is the PSS of
// the runtime's processes and of all they started, without the containers' own programs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
	"fermata/internal/testkit/node"
)

type options struct {
	runtimes, endpoint, binary string
	lives, parallel, pods      int
	probes                     int
	watch                      time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.runtimes, "runtimes", "fermata", "which to start and measure: fermata, containerd; comma-separated")
	flag.StringVar(&o.endpoint, "endpoint", "", "measure the runtime that serves here instead (no memory)")
	flag.StringVar(&o.binary, "binary", "", "the fermata to measure (bin/fermata)")
	flag.IntVar(&o.lives, "lives", 40, "lives of pods, one after another and again in parallel")
	flag.IntVar(&o.parallel, "parallel", 8, "how many in parallel")
	flag.IntVar(&o.pods, "pods", 50, "idle pods for the memory figure")
	flag.IntVar(&o.probes, "probes", 0, "measure exec probes and nothing else: so many pods under a real kubelet, each probed every second")
	flag.DurationVar(&o.watch, "watch", 30*time.Second, "how long probes are watched")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	results, err := measureAll(ctx, o)
	if len(results) != 0 {
		fmt.Print(table(results))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measureAll(ctx context.Context, o options) ([]*result, error) {
	if o.endpoint != "" && o.probes != 0 {
		return nil, errors.New("probes are measured on a runtime that is started for it: leave -endpoint out")
	}
	if o.endpoint != "" {
		client, err := cri.Dial(o.endpoint)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		dir, err := os.MkdirTemp("", "bench-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		r, err := measure(ctx, o, &subject{name: o.endpoint, client: client, logs: dir})
		return []*result{r}, err
	}
	registry, err := images.Serve(ctx)
	if err != nil {
		return nil, err
	}
	defer registry.Close()
	var results []*result
	for _, name := range strings.Split(o.runtimes, ",") {
		r, err := measureStarted(ctx, o, name, registry)
		if err != nil {
			return results, fmt.Errorf("%s: %w", name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// stateInMemory puts the node's state directory on a tmpfs, as /run is one on every machine that people run pods on.
func stateInMemory(dir string) (memory string, err error) {
	if memory, err = os.MkdirTemp("/dev/shm", "bench-"); err != nil {
		return "", err
	}
	return memory, os.Symlink(memory, filepath.Join(dir, "s"))
}

// measureStarted starts a runtime, measures it and stops it.
func measureStarted(ctx context.Context, o options, name string, registry *images.Registry) (_ *result, err error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	memory, err := stateInMemory(dir)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(memory)
	certs := filepath.Join(dir, "certs.d")
	if err := registry.Mirrors(certs); err != nil {
		return nil, err
	}
	start := map[string]func(context.Context, node.Options) (*node.Node, error){"fermata": node.Fermata, "containerd": node.Containerd}[name]
	if start == nil {
		return nil, errors.New("unknown runtime: want fermata or containerd")
	}
	n, err := start(ctx, node.Options{Dir: dir, Registries: certs, Name: "bn", Binary: o.binary, Args: []string{"--log-level", "info"}})
	if err != nil {
		return nil, err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		if err = errors.Join(err, n.Stop(stopCtx)); err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w (log: %s)", err, n.Log)
		}
	}()
	if o.probes != 0 {
		p, err := measureProbes(ctx, o, n)
		return &result{name: name, probes: p}, err
	}
	return measure(ctx, o, &subject{name: name, client: n.CRI, logs: dir, processes: n.Processes})
}
