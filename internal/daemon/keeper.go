package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
	"fermata/internal/pod"
)

// keeperRetry is how long the daemon waits before it tries again to start a keeper that could not be started.
const keeperRetry = time.Second

// openKeeper starts the keeper if none runs and connects to it.
func (p *parts) openKeeper(ctx context.Context) error {
	if err := p.connectKeeper(ctx); err != nil {
		return err
	}
	p.ended("connection to the keeper", func() error { return p.keeper.client().Close() })
	return nil
}

func (p *parts) connectKeeper(ctx context.Context) error {
	binary, err := p.keeperBinary()
	if err != nil {
		return err
	}
	err = client.Start(ctx, client.StartOptions{
		Binary: binary, Socket: p.cfg.KeeperSocket(), State: p.cfg.State, Root: p.cfg.Root,
		LogFile: filepath.Join(p.cfg.State, "keeper.log"), Cgroup: p.keeperCgroup(),
	})
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, client.Options{Socket: p.cfg.KeeperSocket(), OnExit: func(e wire.Exit) { p.pods.Exited(exitOf(&e)) }})
	if err != nil {
		return err
	}
	p.keeper.now.Store(c)
	return nil
}

// keeperCgroup is the keeper's own: what stops the daemon's unit must not stop it.
func (p *parts) keeperCgroup() string { return "/fermata-keeper-" + p.cfg.Instance() }

// keeperBinary is where the keeper is: unpacked from this binary, or beside it.
func (p *parts) keeperBinary() (string, error) {
	if path, err := unpackKeeper(filepath.Join(p.cfg.Root, "bin")); path != "" || err != nil {
		return path, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(self), "fermata-keeper"), nil
}

// watchKeeper replaces a keeper that died, until ctx ends. What the old one held is lost to the new one, and recorded so.
func (p *parts) watchKeeper(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.keeper.client().Done():
		}
		p.log.Error("the keeper has ended; another is started")
		for p.replaceKeeper(ctx) != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(keeperRetry):
			}
		}
	}
}

func (p *parts) replaceKeeper(ctx context.Context) error {
	old := p.keeper.client()
	if err := p.connectKeeper(ctx); err != nil {
		p.log.Error("start another keeper", "error", err)
		return err
	}
	if err := old.Close(); err != nil {
		p.log.Warn("close the connection to the keeper that ended", "error", err)
	}
	if err := p.pods.Resync(ctx); err != nil {
		p.log.Error("bring pods to what the new keeper holds", "error", err)
	}
	return nil
}

// keeperLink is the connection to the keeper, which may be replaced, and the keeper as pods see it.
type keeperLink struct{ now atomic.Pointer[client.Client] }

var _ pod.Supervisor = (*keeperLink)(nil)

func (k *keeperLink) client() *client.Client { return k.now.Load() }

// Signal sends a signal to a process the keeper holds.
func (k *keeperLink) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return k.client().Signal(ctx, id, sig)
}

// ReopenLog starts a new log file.
func (k *keeperLink) ReopenLog(ctx context.Context, id string, dir *linux.FD, base string) error {
	return k.client().ReopenLog(ctx, id, dir, base)
}

// Processes lists what the keeper holds.
func (k *keeperLink) Processes(ctx context.Context) ([]pod.Running, error) {
	held, err := k.client().Processes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the keeper's processes: %w", err)
	}
	all := make([]pod.Running, 0, len(held))
	for _, h := range held {
		r := pod.Running{ID: h.ID, PID: h.PID, Inode: h.PidfdInode, Started: h.Started}
		if h.Exit != nil {
			e := exitOf(h.Exit)
			r.Exit = &e
		}
		all = append(all, r)
	}
	return all, nil
}

// Pidfd returns a handle of a process.
func (k *keeperLink) Pidfd(ctx context.Context, id string) (*linux.FD, error) {
	return k.client().Pidfd(ctx, id)
}

// Forget drops an ended process.
func (k *keeperLink) Forget(ctx context.Context, id string) error {
	err := k.client().Forget(ctx, id)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

func exitOf(e *wire.Exit) pod.Exit {
	return pod.Exit{ID: e.ID, Code: e.Code, Signal: e.Signal, OOMKilled: e.OOMKilled, Started: e.Started, Finished: e.Finished}
}
