// Package kubelet starts kubelets for tests: each with directories, ports and cgroups of its own, so that several can run beside each
// other, alone (static pods only) or of a cluster.
//
//	k, err := kubelet.Start(ctx, kubelet.Options{Dir: dir, Endpoint: node.Endpoint, Name: "a"})
//	k.Apply("web.yaml", manifest)   // a static pod
//	pods, err := k.Pods(ctx)        // what the kubelet says of it
//	k.Stop()                        // the kubelet ends, pods stay
//	k.Remove()                      // once the pods are removed: mounts, cgroups, sysctls, directories
//
// A kubelet changes the host beyond its directories, and takes nothing back: sysctls, a bind of its root directory on itself, cgroups,
// links below /var/log/containers. Remove does. What belongs elsewhere: the runtime (package node).
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"fermata/internal/testkit/tools"
)

// Options say where a kubelet keeps what is its own.
type Options struct {
	// Binary is the kubelet; "" is the pinned one, built when it is not there.
	Binary string
	// Endpoint is the runtime's CRI socket as a URL.
	Endpoint string
	// Dir holds everything: root directory, certificates, static pods, logs.
	Dir string
	// Cgroup is the cgroup below which the kubelet makes its own ("/k-0a1b"), made when absent.
	Cgroup string
	// Name is the node's; static pods' names end in it. "" is "node".
	Name string
	// Address is the node's address, on which the kubelet serves; "" is 127.0.0.1.
	Address string
	// Port and HealthzPort are free ones when 0. The health answers on 127.0.0.1 of the kubelet's own network namespace, the rest on Address.
	Port, HealthzPort int
	// Kubeconfig is how to reach the API server; "" is a kubelet alone, with static pods only.
	Kubeconfig string
	// Client asks the kubelet; nil asks as nobody, of a kubelet that lets nobody do everything.
	Client *http.Client
	// Config are members of KubeletConfiguration (kubelet.config.k8s.io/v1beta1), in place of those that Start would write.
	Config map[string]any
	// Flags are further flags.
	Flags []string
	// Wrapper is a command that runs the kubelet, such as nsenter with its arguments. It must become the kubelet (exec), because it is
	// the process that is ended.
	Wrapper []string
}

// Kubelet is a running kubelet.
type Kubelet struct {
	Options
	// Log is the file with what it says, at -v=2. It grows over Restart.
	Log string
	// StaticPods is the directory of manifests; PodLogs is where containers' logs are.
	StaticPods, PodLogs string

	command []string
	process *exec.Cmd
	ended   chan struct{}
	host    *host
}

// Start runs a kubelet and returns when it is healthy and has synchronized its pods once. The kubelet's end, or two minutes, end the
// wait. When it fails, nothing is left.
func Start(ctx context.Context, o Options) (*Kubelet, error) {
	if err := o.complete(ctx); err != nil {
		return nil, err
	}
	k := &Kubelet{
		Options: o, Log: filepath.Join(o.Dir, "kubelet.log"),
		StaticPods: filepath.Join(o.Dir, "manifests"), PodLogs: filepath.Join(o.Dir, "pods"),
	}
	for _, dir := range []string{k.root(), k.StaticPods, k.PodLogs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(o.Dir, "kubelet.json")
	config, err := k.configuration()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, config, 0o644); err != nil {
		return nil, err
	}
	if k.host, err = prepare(o.Dir, o.Cgroup); err != nil {
		return nil, err
	}
	k.command = append(append([]string{}, o.Wrapper...), o.Binary, "--config", file, "--root-dir", k.root(), "--cert-dir", filepath.Join(o.Dir, "pki"),
		"--hostname-override", o.Name, "-v=2")
	if !net.ParseIP(o.Address).IsLoopback() { // which a kubelet refuses as a node's address
		k.command = append(k.command, "--node-ip", o.Address)
	}
	if o.Kubeconfig != "" {
		k.command = append(k.command, "--kubeconfig", o.Kubeconfig)
	}
	k.command = append(k.command, o.Flags...)
	if err := k.start(ctx); err != nil {
		return nil, errors.Join(err, k.Remove())
	}
	return k, nil
}

func (o *Options) complete(ctx context.Context) error {
	if o.Name == "" {
		o.Name = "node"
	}
	if o.Client == nil {
		o.Client = anonymous
	}
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	for _, port := range []*int{&o.Port, &o.HealthzPort} {
		if *port != 0 {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*port = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	if o.Binary != "" {
		return nil
	}
	var err error
	o.Binary, err = tools.Kubernetes(ctx, "kubelet")
	return err
}

func (k *Kubelet) root() string { return filepath.Join(k.Dir, "root") }

func (k *Kubelet) start(ctx context.Context) error {
	log, err := os.OpenFile(k.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(k.command[0], k.command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	k.process, k.ended = cmd, ended
	if err := k.ready(ctx); err != nil {
		return fmt.Errorf("start kubelet: %w\n%s", errors.Join(err, k.Kill()), k.tail())
	}
	return nil
}

func (k *Kubelet) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := k.Healthy(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-k.ended:
			return fmt.Errorf("the kubelet ended: %v", k.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("not healthy: %w", err)
		case <-tick.C:
		}
	}
}

// PID is the kubelet's process.
func (k *Kubelet) PID() int { return k.process.Process.Pid }

// Running reports whether the kubelet has not ended.
func (k *Kubelet) Running() bool {
	select {
	case <-k.ended:
		return false
	default:
		return true
	}
}

// Stop ends the kubelet; pods, mounts and cgroups stay, as when a node's kubelet is upgraded.
func (k *Kubelet) Stop() error { return k.end(syscall.SIGTERM) }

// Kill ends it with SIGKILL.
func (k *Kubelet) Kill() error { return k.end(syscall.SIGKILL) }

// Restart starts the kubelet again, with the same directories and ports.
func (k *Kubelet) Restart(ctx context.Context) error { return k.start(ctx) }

func (k *Kubelet) end(signal syscall.Signal) error {
	if err := k.process.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-k.ended:
		return nil
	case <-time.After(30 * time.Second):
		k.process.Process.Kill()
		<-k.ended
		return fmt.Errorf("kubelet %d did not end in 30 s of %v", k.PID(), signal)
	}
}

// Remove puts back what the kubelet changed on the host and removes its directories but not its log. The kubelet must have ended, and its
// pods must have been removed from the runtime. Kubelets that ran at once are removed in the opposite order of their start, because each
// puts back the sysctls that it found.
func (k *Kubelet) Remove() error {
	err := k.host.putBack()
	for _, dir := range []string{k.root(), k.StaticPods, k.PodLogs, filepath.Join(k.Dir, "pki"), filepath.Join(k.Dir, "plugins")} {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// Apply writes a static pod's manifest: a new pod, or a change of one. The file appears whole.
func (k *Kubelet) Apply(file, manifest string) error {
	fresh := filepath.Join(k.StaticPods, "."+file+"."+strconv.Itoa(os.Getpid())) // names with a dot are not read
	if err := os.WriteFile(fresh, []byte(manifest), 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(k.StaticPods, file))
}

// Delete removes a static pod's manifest, and with it the pod, gracefully.
func (k *Kubelet) Delete(file string) error { return os.Remove(filepath.Join(k.StaticPods, file)) }

func (k *Kubelet) tail() string {
	data, _ := os.ReadFile(k.Log)
	return string(data[max(0, len(data)-6000):])
}
