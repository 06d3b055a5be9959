// Package node starts container runtimes for tests: fermata, or its peer containerd with runc, each with directories, socket, bridge
// and cgroup of its own, so that several can run beside each other and beside the machine's.
//
// A Node is ended by Stop, which first removes every pod through CRI and leaves nothing running. What was left all the same is for
// package machine to find.
package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/machine"
)

// Options say where a runtime keeps what is its own.
type Options struct {
	// Dir holds everything: root, state, socket, log. Kept short, because socket paths are.
	Dir string
	// Registries is a directory in the form of certs.d.
	Registries string
	// Name, up to four letters, begins the names of this node's bridge and cgroup.
	Name string
	// Binary is the fermata to start; "" is bin/fermata of this tree.
	Binary string
	// Args are further flags of fermata's daemon.
	Args []string
	// ClusterCIDR makes it a cluster's node, which has no network before a kubelet has told its part of it.
	ClusterCIDR string
	// Enter is put before the daemon's command line: a program that starts it in other namespaces and becomes it, as nsenter does.
	Enter []string
}

// unique is the name with four digits from the directory: a run that was killed, or one at the same time, has others.
func (o Options) unique() string {
	sum := sha256.Sum256([]byte(o.Dir))
	return o.Name + hex.EncodeToString(sum[:2])
}

// Node is a running runtime.
type Node struct {
	// Kind is "fermata" or "containerd".
	Kind string
	// Endpoint is the CRI socket as a URL; Socket is its path.
	Endpoint, Socket string
	// Dir is Options.Dir; Log is the file with the daemon's output.
	Dir, Log string
	// CRI is connected to the endpoint; it stays valid over Restart.
	CRI *cri.Client

	// enter is Options.Enter, command the daemon's command line.
	enter   []string
	command []string
	env     []string
	process *exec.Cmd
	ended   chan struct{}
	cleanup func(context.Context) error
	// clustered says that the network is ready when a kubelet has told its part of the cluster's.
	clustered bool
	scope     machine.Scope
}

// slack is as many calls as tests make at once.
const slack = 16

// Scope is where this node's pods leave traces, for package machine. What the node keeps whether or not there are pods (images, its
// bridge) shows no difference between two snapshots, or is left out. Files that a running daemon changes are below "/r" and "/s".
func (n *Node) Scope() machine.Scope {
	s := n.scope
	s.Daemons, s.Slack = n.Processes(), slack
	return s
}

// Start runs the daemon and returns when it answers Status with a ready network.
func (n *Node) start(ctx context.Context) error {
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command := slices.Concat(n.enter, n.command)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), n.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	n.process, n.ended = cmd, ended
	first := n.CRI == nil
	if first {
		if n.CRI, err = cri.Dial(n.Endpoint); err != nil {
			return errors.Join(err, n.Kill())
		}
	}
	if err := n.ready(ctx); err != nil {
		err = errors.Join(err, n.Kill())
		if first {
			err = errors.Join(err, n.cleanup(context.WithoutCancel(ctx)))
		}
		return fmt.Errorf("start %s: %w\n%s", n.Kind, err, n.tail())
	}
	return nil
}

// ready waits until the runtime and, without a kubelet to wait for, its network are. The daemon's end, or a minute, end the wait.
func (n *Node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		missing, err := n.CRI.Missing(ctx)
		if err == nil && !slices.ContainsFunc(missing, n.awaits) {
			return nil
		}
		select {
		case <-n.ended:
			return fmt.Errorf("the daemon ended: %v", n.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("not ready: %v %w", missing, err)
		case <-tick.C:
		}
	}
}

// Program is the file that the daemon runs.
func (n *Node) Program() string { return n.command[0] }

// Run runs a command of fermata's against this node and returns what it says.
func (n *Node) Run(ctx context.Context, command string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.command[0], append([]string{command, "--address", n.Endpoint}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Doctor runs `fermata doctor` and returns what it says; an error if it finds anything.
func (n *Node) Doctor(ctx context.Context, flags ...string) (string, error) {
	return n.Run(ctx, "doctor", flags...)
}

// awaits reports whether a missing condition is to be waited for.
func (n *Node) awaits(condition string) bool {
	return !n.clustered || !strings.HasPrefix(condition, runtimeapi.NetworkReady)
}

// PID is the daemon's process.
func (n *Node) PID() int { return n.process.Process.Pid }

// Running reports whether the daemon has not ended.
func (n *Node) Running() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// Ended is closed when the daemon has ended.
func (n *Node) Ended() <-chan struct{} { return n.ended }

// Kill ends the daemon with SIGKILL, and nothing else of the runtime's.
func (n *Node) Kill() error { return n.end(syscall.SIGKILL) }

// Restart starts the daemon again, with the same directories.
func (n *Node) Restart(ctx context.Context) error { return n.start(ctx) }

func (n *Node) end(signal syscall.Signal) error {
	if err := n.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-n.ended:
		return nil
	case <-time.After(30 * time.Second):
		n.process.Process.Kill()
		<-n.ended
		return fmt.Errorf("%s daemon did not end in 30 s of %v", n.Kind, signal)
	}
}

// Stop removes every pod, ends the daemon and everything it started.
func (n *Node) Stop(ctx context.Context) error {
	err := n.CRI.RemoveAll(ctx)
	return errors.Join(err, n.CRI.Close(), n.end(syscall.SIGTERM), n.cleanup(ctx))
}

// Processes are the runtime's own: the daemon, and whatever names its directory on its command line or runs from it (keeper,
// shims). Containers and pauses are not.
func (n *Node) Processes() []int {
	var found []int
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, err := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		exe, _ := os.Readlink(filepath.Join(filepath.Dir(path), "exe"))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if pid == n.PID() || n.isOurs(exe, string(line)) {
			found = append(found, pid)
		}
	}
	return found
}

func (n *Node) isOurs(exe, line string) bool {
	base := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	switch {
	case strings.HasPrefix(base, "fermata"), strings.HasPrefix(base, "containerd"), base == "runc":
		return strings.Contains(line, n.Dir+"/")
	}
	return false
}

func (n *Node) tail() string {
	data, _ := os.ReadFile(n.Log)
	if len(data) > 4000 {
		data = data[len(data)-4000:]
	}
	return string(data)
}

// endProcesses ends what is left of the runtime's own processes.
func (n *Node) endProcesses() error {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, pid := range n.Processes() {
			syscall.Kill(pid, signal)
		}
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if len(n.Processes()) == 0 {
				return nil
			}
		}
	}
	return fmt.Errorf("processes %v of %s do not end", n.Processes(), n.Kind)
}
