// Command critest runs Kubernetes' CRI conformance suite against a runtime that it starts itself, and compares the outcome with a
// list of the specs that are known not to pass yet.
//
//	go run ./test/critest [-runtime fermata|containerd] [-focus REGEXP] [-dir DIR] [-websocket] [-parallel N] [-random TIMES]
//
// It fails when a spec that is not listed fails or is skipped (critest skips where one expects a failure), and when a listed spec
// passes (the list must stay true). The suite, the images and the peer are built from modules and Debian packages; see
// internal/testkit.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
	"fermata/internal/testkit/machine"
	"fermata/internal/testkit/node"
	"fermata/internal/testkit/tools"
)

type options struct {
	runtime, focus, dir, list, binary, seed string
	// websocket runs the specs of streaming once more over WebSocket; no others look at that.
	websocket bool
	// parallel is how many specs run at once, random how many runs there are, each in an order of its own. 0: one run in the usual order.
	parallel, random int
}

// streaming are the specs that the flags -websocket-… concern (cri-tools, pkg/validate/streaming.go).
const streaming = "Streaming"

func main() {
	var o options
	flag.StringVar(&o.runtime, "runtime", "fermata", "fermata or containerd")
	flag.StringVar(&o.focus, "focus", "", "only the specs that match; listed ones among them still count")
	flag.StringVar(&o.dir, "dir", "", "directory for everything (a temporary one, removed after success)")
	flag.StringVar(&o.list, "list", "", "the list (test/critest/not-yet.txt, or containerd.txt for the peer)")
	flag.StringVar(&o.binary, "binary", "", "the fermata to test (bin/fermata)")
	flag.StringVar(&o.seed, "seed", "1", "decides the order of the specs")
	flag.BoolVar(&o.websocket, "websocket", false, "the specs of streaming once more over WebSocket")
	flag.IntVar(&o.parallel, "parallel", 1, "how many specs run at once")
	flag.IntVar(&o.random, "random", 0, "how many runs, one after the other on one daemon, each in another random order")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	root, err := tools.Root()
	if err != nil {
		return err
	}
	if o.list == "" {
		o.list = filepath.Join(root, "test/critest", map[string]string{"fermata": "not-yet.txt"}[o.runtime])
		if o.runtime == "containerd" {
			o.list = filepath.Join(root, "test/critest/containerd.txt")
		}
	}
	listed, err := readList(o.list)
	if err != nil {
		return err
	}
	keep := o.dir != ""
	if !keep {
		if o.dir, err = os.MkdirTemp("", "critest-"); err != nil {
			return err
		}
	}
	var failed []error
	err = suite(ctx, o, func(report []spec, r passage) {
		verdict := judge(report, listed, r.focus != "")
		fmt.Printf("%s: %s\n", r.name, verdict)
		if !verdict.ok() {
			failed = append(failed, fmt.Errorf("%s: %d unlisted, %d listed that should not be", r.name, len(verdict.unexpected), len(verdict.stale)))
		}
	})
	if err := errors.Join(append(failed, err)...); err != nil {
		return fmt.Errorf("%w (logs: %s)", err, o.dir)
	}
	if keep {
		return nil
	}
	return os.RemoveAll(o.dir)
}

// passage is one run of critest.
type passage struct {
	name, focus string
	args        []string
}

// passages are the runs that were asked for.
func (o options) passages() []passage {
	usual := []string{"--ginkgo.seed", o.seed}
	if o.random == 0 {
		all := []passage{{"critest", o.focus, o.inParallel(usual)}}
		if o.websocket {
			all = append(all, passage{"critest-websocket", streaming, append([]string{"-websocket-exec", "-websocket-attach", "-websocket-portforward"}, usual...)})
		}
		return all
	}
	var all []passage
	for i := range o.random {
		seed := strconv.FormatInt(time.Now().UnixNano()%1e6, 10)
		args := []string{"--ginkgo.randomize-all", "--ginkgo.seed", seed}
		all = append(all, passage{fmt.Sprintf("critest-%d-seed-%s", i+1, seed), o.focus, o.inParallel(args)})
		time.Sleep(time.Millisecond) // another seed
	}
	return all
}

func (o options) inParallel(args []string) []string {
	if o.parallel < 2 {
		return args
	}
	return append([]string{"-parallel", strconv.Itoa(o.parallel)}, args...)
}

// suite starts the runtime, runs critest as often as asked for and stops the runtime. done is told of each run.
func suite(ctx context.Context, o options, done func([]spec, passage)) (err error) {
	began := time.Now()
	registry, err := images.Serve(ctx)
	if err != nil {
		return err
	}
	defer registry.Close()
	program, err := images.Critest(ctx, registry.Images)
	if err != nil {
		return err
	}
	certs := filepath.Join(o.dir, "certs.d")
	if err := registry.Mirrors(certs); err != nil {
		return err
	}
	fmt.Printf("suite and images built: %.1f s\n", time.Since(began).Seconds())
	start := map[string]func(context.Context, node.Options) (*node.Node, error){"fermata": node.Fermata, "containerd": node.Containerd}[o.runtime]
	if start == nil {
		return fmt.Errorf("runtime %q: want fermata or containerd", o.runtime)
	}
	n, err := start(ctx, node.Options{Dir: o.dir, Registries: certs, Name: "ct", Binary: o.binary})
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, n.Stop(stopCtx))
	}()
	// One pod's life first: the bridge and the cgroup that it brings stay.
	first, err := n.CRI.RunPod(ctx, cri.PodConfig("first", ""))
	if err == nil {
		err = n.CRI.RemovePod(ctx, first)
	}
	if err != nil {
		return err
	}
	if err := pull(ctx, n, images.Names(registry.Images)); err != nil {
		return err
	}
	before, err := machine.Take(n.Scope())
	if err != nil {
		return err
	}
	for _, r := range o.passages() {
		began = time.Now()
		report, err := execute(ctx, o, program, n, r)
		if err != nil {
			return err
		}
		fmt.Printf("%s ran: %.1f s\n", r.name, time.Since(began).Seconds())
		done(report, r)
	}
	if n.Kind != "fermata" {
		return nil
	}
	return checkNothingLeft(ctx, n, before)
}

// checkNothingLeft removes the pods that the suite did not (it aims to) and looks for what the others left.
func checkNothingLeft(ctx context.Context, n *node.Node, before *machine.Snapshot) error {
	if err := n.CRI.RemoveAll(ctx); err != nil {
		return err
	}
	left, err := before.Left(ctx)
	left = slices.DeleteFunc(left, func(what string) bool { return strings.HasPrefix(what, "descriptors:") }) // pools grow
	if len(left) != 0 {
		err = fmt.Errorf("left on the machine:\n%s", strings.Join(left, "\n"))
	}
	return err
}

// pull fetches the images that containers run beforehand, so that no spec's time limit includes it.
func pull(ctx context.Context, n *node.Node, refs []string) error {
	for _, ref := range refs {
		if !strings.Contains(ref, "e2e-test-images") {
			continue
		}
		if _, err := n.CRI.Pull(ctx, ref); err != nil {
			return fmt.Errorf("pull %s: %w", ref, err)
		}
	}
	return nil
}

// execute runs the suite. Its exit code is not looked at: the report says more.
func execute(ctx context.Context, o options, program string, n *node.Node, r passage) ([]spec, error) {
	ginkgo, err := tools.Ginkgo(ctx)
	if err != nil {
		return nil, err
	}
	report := filepath.Join(o.dir, r.name+".json")
	args := []string{
		"--runtime-endpoint", n.Endpoint, "--config", filepath.Join(o.dir, "no-crictl.yaml"),
		"--ginkgo.json-report", report, "--ginkgo.no-color", "--ginkgo.timeout", "40m",
		"--ginkgo.poll-progress-after", "2m",
	}
	args = append(args, r.args...)
	if r.focus != "" {
		args = append(args, "--ginkgo.focus", r.focus)
	}
	log, err := os.Create(filepath.Join(o.dir, r.name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, o.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(ginkgo)+":"+os.Getenv("PATH"))
	ran := cmd.Run()
	specs, err := readReport(report)
	if err != nil {
		return nil, fmt.Errorf("run critest: %w; no report: %w", ran, err)
	}
	return specs, nil
}
