package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/apparmor"
	"fermata/internal/cgroup"
	"fermata/internal/config"
	"fermata/internal/cri"
	"fermata/internal/engine/native"
	"fermata/internal/explain"
	"fermata/internal/image"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/network"
	"fermata/internal/pod"
	"fermata/internal/selinux"
	"fermata/internal/service"
	"fermata/internal/spec"
	"fermata/internal/stream"
)

// Version is fermata's, set by the Makefile.
var Version = "0.1.0-dev"

// stopGrace is how long calls under way may take to end when the daemon is asked to.
const stopGrace = 10 * time.Second

// parts are what a daemon is made of, in the order they are made.
type parts struct {
	cfg      *config.Config
	log      *slog.Logger
	undo     []func() // ends of what was made, run in reverse
	cgroups  *cgroup.Tree
	facts    spec.Facts
	appArmor *apparmor.Policy
	selinux  *selinux.Policy
	stage    *launch.Files
	engine   *native.Handler
	images   *image.Store
	network  *network.Network
	keeper   keeperLink
	// keeperPath is the keeper's binary, once it was looked for.
	keeperPath string
	pods       *pod.Manager
	node       cri.Node
	streams    *stream.Server
	listener   net.Listener
	cadvisor   net.Listener // nil: nobody asked for it, or it cannot be had
}

// Run is the daemon: it returns when ctx ends, or when it cannot go on. Pods run on.
func Run(ctx context.Context, cfg *config.Config) (err error) {
	p := &parts{cfg: cfg, log: logger(cfg.LogLevel)}
	p.keeper.holds = holds{state: cfg.State, of: map[string]*hold{}}
	if err := p.armFailpoints(); err != nil {
		return err
	}
	defer func() {
		for i := len(p.undo) - 1; i >= 0; i-- {
			p.undo[i]()
		}
	}()
	began := time.Now()
	for _, step := range []struct {
		name string
		make func(context.Context) error
	}{
		{"directories", p.makeDirectories},
		{"lock", p.lock},
		{"cgroups", p.openCgroups},
		{"facts", p.findFacts},
		{"stage", p.openStage},
		{"images", p.openImages},
		{"network", p.openNetwork},
		{"pods", p.makePods},
		{"keeper", p.openKeeper},
		{"recovery", p.recover},
		{"streams", p.openStreams},
		{"socket for cAdvisor", p.listenForCadvisor},
		{"socket", p.listen},
	} {
		if err := step.make(ctx); err != nil {
			return fmt.Errorf("start daemon: %s: %w", step.name, err)
		}
	}
	p.log.Info("ready", "version", Version, "socket", p.cfg.Socket(), "root", p.cfg.Root, "cgroups", p.cgroups.Mode(), "took", time.Since(began))
	return p.serve(ctx)
}

// logger writes to stderr, where systemd or a person reads it.
func logger(level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
}

// ended registers the end of something made.
func (p *parts) ended(what string, end func() error) {
	p.undo = append(p.undo, func() {
		if err := end(); err != nil {
			p.log.Error("end "+what, "error", err)
		}
	})
}

// makeDirectories makes the daemon's own, closed to everybody else (CVE-2021-41103, CVE-2024-25621), also where they existed with another mode.
func (p *parts) makeDirectories(context.Context) error {
	syscall.Umask(0o022) // what is made for containers must not depend on who started the daemon
	for _, dir := range []string{p.cfg.Root, p.cfg.State, filepath.Join(p.cfg.Root, "pods"), filepath.Join(p.cfg.State, "pods")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	pods, err := linux.Open(filepath.Join(p.cfg.Root, "pods"), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer pods.Close()
	if err := pods.SpreadSubdirectories(); err != nil { // pods come and go: ext4 would look through the deleted ones' inodes
		return err
	}
	return linux.HideFromDebuggers()
}

// lockPatience is for a daemon that was killed just now, while it started a process: until that has executed its program the lock is its as well.
const lockPatience = time.Second

// lock refuses a second daemon on one root. The file stays; the lock goes with the process.
func (p *parts) lock(context.Context) error {
	f, err := linux.AwaitLock(filepath.Join(p.cfg.Root, "lock"), lockPatience)
	if err != nil {
		return fmt.Errorf("another fermata runs with --root %s (or its lock cannot be had): %w", p.cfg.Root, err)
	}
	p.ended("lock", f.Close)
	return nil
}

func (p *parts) openCgroups(context.Context) (err error) {
	p.cgroups, err = cgroup.Open()
	if err != nil {
		return err
	}
	p.ended("cgroups", p.cgroups.Close)
	for _, name := range p.cgroups.Missing() {
		p.log.Warn("a cgroup controller is missing; its limits cannot be set", "controller", name)
	}
	return nil
}

func (p *parts) openStage(context.Context) (err error) {
	var fileLabel string
	if p.facts.SELinux != nil {
		fileLabel = p.facts.SELinux.File
	}
	if p.stage, err = launch.NewStage(fileLabel); err != nil {
		return err
	}
	p.ended("stage", p.stage.Close)
	options := native.Options{Stage: p.stage, Skeleton: filepath.Join(p.cfg.Root, "skeleton"), FileLabel: fileLabel}
	if p.engine, err = native.New(options); err != nil {
		return err
	}
	p.ended("engine", p.engine.Close)
	return nil
}

func (p *parts) openImages(context.Context) (err error) {
	if err := p.labelImages(); err != nil {
		return err
	}
	p.images, err = image.Open(image.Options{Root: p.cfg.Root, RegistriesDir: p.cfg.Registries, UserAgent: "fermata/" + Version})
	if err != nil {
		return err
	}
	p.ended("images", p.images.Close)
	for _, problem := range p.images.Problems() {
		p.log.Error("an image is not what it was", "problem", problem)
	}
	return p.images.AddBuiltin(pauseName(), map[string][]byte{"pause": launch.PauseELF(launch.Native())}, pauseConfig())
}

func (p *parts) openNetwork(context.Context) (err error) {
	p.network, err = network.Open(network.Options{
		State: p.cfg.State, Root: p.cfg.Root, Bridge: p.cfg.Bridge, Subnet: p.cfg.Subnet, Cluster: p.cfg.ClusterCIDR, Instance: p.cfg.Instance(),
		CNIConfDir: p.cfg.CNIConfDir, CNIBinDirs: filepath.SplitList(p.cfg.CNIBinDir), CNICache: p.cfg.CNICacheDir, Log: p.log,
	})
	if err != nil {
		return err
	}
	p.ended("network", p.network.Close)
	return nil
}

// recover brings memory to what runs, and frees what belongs to nobody.
func (p *parts) recover(ctx context.Context) error {
	if err := p.pods.Recover(ctx); err != nil {
		return err
	}
	mended, err := p.network.Reconcile(ctx, p.pods.HoldsNetwork)
	for _, m := range mended {
		p.log.Warn("the network held something of nobody's", "what", m)
	}
	if err != nil {
		p.log.Error("reconcile the network", "error", err)
	}
	return p.images.Collect(ctx)
}

// listen makes the socket, replacing a stale one (the lock says that no other daemon uses it).
func (p *parts) listen(context.Context) error {
	path := p.cfg.Socket()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	p.listener = l
	return os.Chmod(path, 0o660)
}

// serve answers calls until ctx ends or the keeper cannot be reached any more.
func (p *parts) serve(ctx context.Context) error {
	options := append(cri.Interceptors(p.log),
		grpc.MaxRecvMsgSize(cri.MaxMessage), grpc.MaxSendMsgSize(cri.MaxMessage),
		// Clients ping a quiet connection every few seconds (GEN-3); gRPC's default would close it for that.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	server := grpc.NewServer(options...)
	cri.Register(server, p.pods, p.images, p.node, p.streams)
	own := service.Register(server, service.Options{
		Version: Version, Config: p.cfg, Images: p.images, Pods: p.pods, Checks: p.checks(), Debts: p.network, Notes: p.notes,
		Explain: &explain.Explainer{Pods: p.pods, Keeper: p.keeper.pid, Proc: "/proc", Stories: p.pods, Pulls: p.images, Working: p.network.Working},
	})
	defer p.serveCadvisor()()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(p.listener) }()
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var watchers sync.WaitGroup
	watchers.Go(func() { p.watchKeeper(watching) })
	watchers.Go(func() { p.reconcile(watching) })
	select {
	case <-ctx.Done():
	case err := <-failed:
		stopWatching() // before the connection is closed: that is no keeper's end
		watchers.Wait()
		return fmt.Errorf("serve: %w", err)
	}
	p.pods.EndEvents() // whose streams would never end
	own.End()
	stopped := make(chan struct{})
	go func() { server.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(stopGrace):
		server.Stop()
		<-stopped
	}
	<-failed
	stopWatching()
	watchers.Wait()
	return p.leave()
}

// handlers are the runtime handlers there are; the native one is the default and has a name too.
func (p *parts) handlers() []*runtimeapi.RuntimeHandler {
	f := p.engine.Features()
	can := &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: f.RecursiveReadOnlyMounts, UserNamespaces: f.UserNamespaces}
	return []*runtimeapi.RuntimeHandler{{Name: "", Features: can}, {Name: "native", Features: can}}
}

func handlerNames(all []*runtimeapi.RuntimeHandler) []string {
	var names []string
	for _, h := range all {
		names = append(names, h.GetName())
	}
	return names
}

// bootID tells this boot from another; on a kernel without it every start looks like a new boot, which ends containers in the records only if
// their processes are gone too.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
