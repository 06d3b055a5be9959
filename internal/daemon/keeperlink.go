package daemon

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
	"fermata/internal/pod"
)

// keeperAbsence is how long a request waits for another keeper where the one it was made to is gone.
const keeperAbsence = 5 * time.Second

// keeperLink is the connection to the keeper, which may be replaced, and the keeper as pods see it. A request that a keeper left unanswered is made to the next.
type keeperLink struct {
	holds holds
	mu    sync.Mutex
	now   *client.Client
	// next is closed when now is replaced.
	next chan struct{}
}

var (
	_ pod.Supervisor = (*keeperLink)(nil)
	_ pod.Stdio      = (*keeperLink)(nil)
)

func (k *keeperLink) client() *client.Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// set replaces the connection.
func (k *keeperLink) set(c *client.Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = c
	if k.next != nil {
		close(k.next)
	}
	k.next = make(chan struct{})
}

// after waits for another connection than c; nil if none comes.
func (k *keeperLink) after(ctx context.Context, c *client.Client) *client.Client {
	limit := time.NewTimer(keeperAbsence)
	defer limit.Stop()
	for {
		k.mu.Lock()
		now, next := k.now, k.next
		k.mu.Unlock()
		if now != c {
			return now
		}
		select {
		case <-next:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// ask makes a request, and makes it again if the keeper went away under it: doing any of them twice is as doing it once.
func (k *keeperLink) ask(ctx context.Context, do func(c *client.Client) error) error {
	c := k.client()
	err := do(c)
	if !errs.Is(err, errs.Unavailable) {
		return err
	}
	if next := k.after(ctx, c); next != nil {
		return do(next)
	}
	return err
}

// fd is ask for a descriptor.
func (k *keeperLink) fd(ctx context.Context, do func(c *client.Client) (*linux.FD, error)) (fd *linux.FD, err error) {
	err = k.ask(ctx, func(c *client.Client) error {
		fd, err = do(c)
		return err
	})
	return fd, err
}

// Launch starts a process. If the keeper goes away under it, it was launched if the next one has it. It is asked for again only if that keeper cannot have seen
// it: a command twice run is worse than one that failed.
func (k *keeperLink) Launch(ctx context.Context, l *wire.Launch) (*wire.Launched, error) {
	c := k.client()
	got, err := c.Launch(ctx, l)
	if !errs.Is(err, errs.Unavailable) {
		return got, err
	}
	next := k.after(ctx, c)
	if next == nil {
		return nil, err
	}
	if client.NotSent(err) {
		return next.Launch(ctx, l)
	}
	processes, e := next.Processes(ctx)
	if e != nil {
		return nil, err
	}
	for _, p := range processes {
		if p.ID != l.ID || p.Exit != nil {
			continue
		}
		pidfd, e := next.Pidfd(ctx, p.ID)
		if e != nil {
			return nil, err
		}
		return &wire.Launched{PID: p.PID, PidfdInode: p.PidfdInode, Started: p.Started, Pidfd: pidfd}, nil
	}
	return nil, err
}

// Namespaces returns what the keeper holds of a pause.
func (k *keeperLink) Namespaces(ctx context.Context, id string) (held map[string]*linux.FD, err error) {
	err = k.ask(ctx, func(c *client.Client) error {
		held, err = c.Namespaces(ctx, id)
		return err
	})
	return held, err
}

// pid is the keeper's process.
func (k *keeperLink) pid() (int, error) { return k.client().PID() }

// Signal sends a signal to a process the keeper holds.
func (k *keeperLink) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return k.ask(ctx, func(c *client.Client) error { return c.Signal(ctx, id, sig) })
}

// ReopenLog starts a new log file.
func (k *keeperLink) ReopenLog(ctx context.Context, id string, dir *linux.FD, base string) error {
	return k.ask(ctx, func(c *client.Client) error { return c.ReopenLog(ctx, id, dir, base) })
}

// Processes lists what the keeper holds.
func (k *keeperLink) Processes(ctx context.Context) ([]pod.Running, error) {
	var held []wire.Process
	err := k.ask(ctx, func(c *client.Client) (err error) {
		held, err = c.Processes(ctx)
		return err
	})
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
	return k.fd(ctx, func(c *client.Client) (*linux.FD, error) { return c.Pidfd(ctx, id) })
}

// Forget drops an ended process.
func (k *keeperLink) Forget(ctx context.Context, id string) error {
	err := k.ask(ctx, func(c *client.Client) error { return c.Forget(ctx, id) })
	if errs.Is(err, errs.NotFound) {
		err = nil
	}
	if err == nil {
		k.holds.drop(id)
	}
	return err
}

// Follow copies a container's output to pipes.
func (k *keeperLink) Follow(ctx context.Context, id string, stdout, stderr *linux.FD) error {
	return k.ask(ctx, func(c *client.Client) error { return c.Follow(ctx, id, stdout, stderr) })
}

// Console duplicates a terminal's master side.
func (k *keeperLink) Console(ctx context.Context, id string) (*linux.FD, error) {
	return k.fd(ctx, func(c *client.Client) (*linux.FD, error) { return c.Console(ctx, id) })
}

// Stdin duplicates the writing end of a stdin.
func (k *keeperLink) Stdin(ctx context.Context, id string) (*linux.FD, error) {
	return k.fd(ctx, func(c *client.Client) (*linux.FD, error) { return c.Stdin(ctx, id) })
}

// CloseStdin closes the keeper's, and the one held beside it.
func (k *keeperLink) CloseStdin(ctx context.Context, id string) error {
	k.holds.closeStdin(id)
	return k.ask(ctx, func(c *client.Client) error { return c.CloseStdin(ctx, id) })
}

func exitOf(e *wire.Exit) pod.Exit {
	return pod.Exit{
		ID: e.ID, PID: e.PID, Code: e.Code, Signal: e.Signal, OOMKilled: e.OOMKilled, Started: e.Started, Finished: e.Finished, Unknown: e.Unknown, Note: e.Note,
	}
}
