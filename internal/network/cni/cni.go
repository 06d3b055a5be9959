// Package cni connects pods by CNI plugins, once a network is configured for them.
//
// It promises that what a plugin is asked is on the disk, synced, before it is asked: an address taken by a plugin survives power cuts, and so
// must the memory of it. A DEL that fails keeps nobody: it becomes a debt, which is listed ([Plugins.Debts]), tried again in its own time, also by
// the next daemon, and forgotten when the plugin has given everything back. An ADD that fails is followed by its DEL.
//
// The configuration is read when it is needed, so that it may come, change and go at any time, whatever becomes of its directory. The protocol itself
// is libcni's; only starting plugins is ours (exec.go): a plugin that hangs is killed with all that it started, and an error says which one it was.
package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"

	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
)

// How long plugins may take. An ADD may wait for a node's agent; the kubelet gives RunPodSandbox four minutes (GEN-11). A DEL keeps a pod's end waiting,
// and what it does not do now it owes.
const (
	addLimit    = 3 * time.Minute
	delLimit    = 10 * time.Second
	statusLimit = 5 * time.Second
	statusFresh = time.Second
)

// Options say where plugins and their configuration are.
type Options struct {
	// ConfDir has the networks (*.conflist, *.conf, *.json; the first by name is used), BinDirs the plugins.
	ConfDir string
	BinDirs []string
	// Cache is libcni's: what plugins answered, by which they are asked to undo it.
	Cache string
	// Dir keeps this package's records.
	Dir string
	// NetNSDir is where plugins find network namespaces by name; "" is /run/netns.
	NetNSDir string
	// Instance tells several fermatas on one host apart.
	Instance string
	Log      *slog.Logger
}

// Plugins connects pods by plugins. It is safe for concurrent use.
type Plugins struct {
	o    Options
	exec executor
	libc *libcni.CNIConfig
	busy endpoint.Locks
	// attaching is held shared by each Attach, and alone while plugins are told which attachments there are: one just being made must not be left out.
	attaching sync.RWMutex

	mu      sync.Mutex
	records map[string]*record
	// status is the answer of the last look, kept for a moment; looking is held by who looks. Nobody else waits: the kubelet asks every few seconds.
	status      error
	statusUntil time.Time
	looking     sync.Mutex

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup
	wake chan struct{} // a debt was made
}

// Open reads what is recorded and begins to pay what is owed. It touches no pod.
func Open(o Options) (*Plugins, error) {
	if o.NetNSDir == "" {
		o.NetNSDir = "/run/netns"
	}
	for _, dir := range []string{o.Dir, filepath.Join(o.Cache, "results")} {
		if err := durable.MakeDir(dir); err != nil {
			return nil, err
		}
	}
	p := &Plugins{o: o, records: map[string]*record{}, wake: make(chan struct{}, 1)}
	p.libc = libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.Cache, &p.exec)
	if err := p.load(); err != nil {
		return nil, fmt.Errorf("open CNI: %w", err)
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.work.Go(p.pay)
	return p, nil
}

// Close ends the paying of debts; pods stay connected.
func (p *Plugins) Close() error {
	p.stop()
	p.work.Wait()
	return nil
}

// Installed says whether a network is configured.
func (p *Plugins) Installed() bool {
	files, err := p.files()
	return err == nil && len(files) > 0
}

// Has says whether a sandbox was connected here.
func (p *Plugins) Has(sandboxID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.records[sandboxID] != nil
}

// Connected are the sandboxes that are connected here.
func (p *Plugins) Connected() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for id, r := range p.records {
		if r.Result != nil && r.Debt == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// NetNS is the path by which plugins know a sandbox's network namespace; there is one for as long as it is connected.
func (p *Plugins) NetNS(sandboxID string) (path string, there bool) {
	path = p.netns(sandboxID)
	return path, linux.IsNamespaceFile(path)
}

// Status says what keeps pods from being connected, nil if nothing does: no configuration, a plugin missing, or (CNI 1.1) what a plugin says.
func (p *Plugins) Status(ctx context.Context) error {
	p.mu.Lock()
	last, fresh := p.status, time.Now().Before(p.statusUntil)
	p.mu.Unlock()
	if fresh || !p.looking.TryLock() {
		return last
	}
	defer p.looking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	now := p.look(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.statusUntil = now, time.Now().Add(statusFresh)
	return now
}

func (p *Plugins) look(ctx context.Context) error {
	list, err := p.network()
	if err != nil {
		return err
	}
	for _, plugin := range list.Plugins {
		if _, err := p.exec.FindInPath(plugin.Network.Type, p.o.BinDirs); err != nil {
			return errs.New(errs.Unavailable, "CNI network %s: %w", list.Name, err)
		}
	}
	if err := p.libc.GetStatusNetworkList(ctx, list); err != nil {
		return errs.New(errs.Unavailable, "CNI network %s: %w", list.Name, err)
	}
	return nil
}

// files are the configured networks, in the order of their names.
func (p *Plugins) files() ([]string, error) {
	files, err := libcni.ConfFiles(p.o.ConfDir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	slices.SortFunc(files, func(a, b string) int { return cmpBase(a, b) })
	return files, nil
}

// network reads the configuration: the first file by name. One that cannot be read is an error, not skipped: which network pods get must not depend on a typo.
func (p *Plugins) network() (*libcni.NetworkConfigList, error) {
	files, err := p.files()
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errs.New(errs.Unavailable, "CNI: no network is configured in %s", p.o.ConfDir)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	list, err := parse(raw, filepath.Ext(files[0]) == ".conflist")
	if err != nil {
		return nil, errs.New(errs.Unavailable, "CNI configuration %s: %w", files[0], err)
	}
	return list, nil
}

// parse reads a list of plugins, or the configuration of one.
func parse(raw []byte, isList bool) (list *libcni.NetworkConfigList, err error) {
	if isList {
		list, err = libcni.NetworkConfFromBytes(raw)
	} else {
		var one *libcni.PluginConfig
		if one, err = libcni.NetworkPluginConfFromBytes(raw); err == nil {
			list, err = libcni.ConfListFromConf(one)
		}
	}
	if err == nil && len(list.Plugins) == 0 {
		err = errors.New("it names no plugin")
	}
	return list, err
}
