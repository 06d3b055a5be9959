package daemon

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
)

// keeperRetry is how long the daemon waits, at most, before it tries again to start a keeper that could not be started; firstKeeperRetry the first time, because
// it may have been killed as the one before it.
const (
	keeperRetry      = time.Second
	firstKeeperRetry = 10 * time.Millisecond
)

// openKeeper starts the keeper if none runs and connects to it.
func (p *parts) openKeeper(ctx context.Context) error {
	if err := p.connectKeeper(ctx); err != nil {
		return err
	}
	p.ended("connection to the keeper", func() error { return p.keeper.client().Close() })
	p.ended("what is held beside the keeper", p.keeper.holds.end)
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
	c, err := client.Dial(ctx, client.Options{Socket: p.cfg.KeeperSocket(), OnExit: func(e wire.Exit) {
		p.keeper.holds.release(&e)
		p.pods.Exited(exitOf(&e))
	}})
	if err != nil {
		return err
	}
	p.upgradeKeeper(ctx, c, binary)
	if err := p.keeper.holds.exchange(ctx, c); err != nil {
		p.log.Error("exchange with the keeper what both hold", "error", err)
	}
	p.keeper.set(c)
	return nil
}

// upgradeTries is how often an upgrade is asked for that something under way stands against, each time for about a second.
const upgradeTries = 3

// upgradeKeeper has a keeper of another version become this one's, in its place. If it cannot, it stays: the newest daemon speaks to older keepers.
func (p *parts) upgradeKeeper(ctx context.Context, c *client.Client, binary string) {
	was := c.Executable()
	if was == "" || was == binary {
		return
	}
	began := time.Now()
	err := c.Upgrade(ctx, binary)
	for tries := 1; errs.Is(err, errs.Unavailable) && tries < upgradeTries; tries++ {
		err = c.Upgrade(ctx, binary)
	}
	if err != nil {
		p.log.Warn("the keeper stays what it is until another daemon is started", "is", was, "error", err)
		return
	}
	p.log.Info("the keeper was upgraded in place", "was", was, "is", binary, "took", time.Since(began))
}

// keeperCgroup is the keeper's own: what stops the daemon's unit must not stop it.
func (p *parts) keeperCgroup() string { return "/fermata-keeper-" + p.cfg.Instance() }

// keeperBinary is where the keeper is: unpacked from this binary, or beside it.
func (p *parts) keeperBinary() (path string, err error) {
	if p.keeperPath != "" { // looked at before: when a keeper is to be replaced, time matters
		if _, err := os.Stat(p.keeperPath); err == nil {
			return p.keeperPath, nil
		}
	}
	defer func() { p.keeperPath = path }()
	if path, err := unpackKeeper(filepath.Join(p.cfg.Root, "bin")); path != "" || err != nil {
		return path, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(self), "fermata-keeper"), nil
}

// watchKeeper replaces a keeper that died, until ctx ends. The new one takes over what the old one held.
func (p *parts) watchKeeper(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.keeper.client().Done():
		}
		began := time.Now()
		p.log.Error("the keeper has ended; another is started")
		for wait := firstKeeperRetry; p.replaceKeeper(ctx) != nil; wait = min(4*wait, keeperRetry) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		p.log.Warn("another keeper has taken over", "after", time.Since(began))
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
	if err := p.resync(ctx); err != nil {
		p.log.Error("bring pods to what the new keeper holds", "error", err)
	}
	return nil
}

// resync brings pods to what the keeper holds, as long as it lives: should it be killed too, nobody but who waits here starts the next.
func (p *parts) resync(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	keeper := p.keeper.client()
	watch.Go(func() {
		select {
		case <-keeper.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	return p.pods.Resync(ctx)
}
