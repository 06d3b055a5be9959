package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Processes lists the PIDs of the group and all below it, sorted. A group that does not exist has none. Zombies are not listed, and neither are
// processes that this PID namespace cannot see.
func (g *Group) Processes() ([]int, error) {
	if g.err != nil {
		return nil, g.err
	}
	var all []int
	for _, h := range g.listed() {
		pids, err := h.processes(g.rel)
		if err != nil {
			return nil, fmt.Errorf("list processes of control group %s: %w", g.Path(), err)
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// listed returns the hierarchies whose lists together name every process of the group: one v1 hierarchy and the v2 one. On a hybrid machine a
// process may have left one of them.
func (g *Group) listed() []*hierarchy {
	var list []*hierarchy
	if h := g.tree.members(); h != nil {
		list = append(list, h)
	}
	if h := g.tree.unified; h != nil {
		list = append(list, h)
	}
	return list
}

// processes lists the PIDs in a subtree of one hierarchy.
func (h *hierarchy) processes(rel string) ([]int, error) {
	var all []int
	err := h.walk(rel, func(rel string) error {
		text, err := h.read(rel, "cgroup.procs")
		if errors.Is(err, syscall.EOPNOTSUPP) { // a threaded v2 group: its processes are listed by the one above
			return nil
		}
		if err != nil {
			return err
		}
		for _, word := range strings.Fields(text) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
				all = append(all, pid)
			}
		}
		return nil
	})
	return all, err
}

// walk visits a group and all below it, parents first. What is gone, or goes meanwhile, is left out.
func (h *hierarchy) walk(rel string, visit func(rel string) error) error {
	if err := visit(rel); err != nil {
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		return err
	}
	children, err := h.children(rel)
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := h.walk(rel+"/"+c, visit); err != nil {
			return err
		}
	}
	return nil
}

// children lists the groups directly below one.
func (h *hierarchy) children(rel string) ([]string, error) {
	names, err := h.root.Subdirectories(path.Join(".", rel))
	if errs.Is(gone(err), errs.NotFound) {
		return nil, nil
	}
	return names, err
}

// Kill ends every process of the group and below it by SIGKILL and returns when none is left, or with ctx's error. A group that does not exist is
// dead. Frozen ones are thawed. Ended processes may still be zombies: reaping is their parents' business.
//
// On v2 the kernel does it (cgroup.kill, Linux 5.14), on v1 there is no such thing: everything listed is signalled by pidfd, and from the second
// round on in a frozen group, so that a fork bomb cannot outrun it. A hybrid machine gets both.
//
// A group that was killed is at its end: Linux 6.14 and the stable releases after b69bb476dee9 ("fix race between fork and cgroup.kill") compare
// the group's count of kills with that of the parent process's group, and kill whatever is cloned into it later. Exec groups, which live on, are
// therefore killed one by one on v2 too.
func (g *Group) Kill(ctx context.Context) error {
	if g.err != nil {
		return g.err
	}
	if err := g.kill(ctx); err != nil {
		return fmt.Errorf("kill control group %s: %w", g.Path(), err)
	}
	return nil
}

func (g *Group) kill(ctx context.Context) error {
	for _, h := range slices.Backward(g.listed()) { // v2 first: where it kills all, v1's list is empty
		if h.version == V2 && g.home == nil {
			if err := h.write(g.rel, "cgroup.kill", "1"); err != nil && !errs.Is(err, errs.NotFound) {
				return err
			}
			if err := g.tree.thawAll(g.rel); err != nil { // v1's frozen processes cannot die
				return err
			}
		} else if err := h.hunt(ctx, g.rel); err != nil {
			return err
		}
	}
	if h := g.tree.unified; h != nil {
		return h.await(ctx, g.rel, "populated", 0)
	}
	return nil
}

// hunt kills by the list of a hierarchy.
func (h *hierarchy) hunt(ctx context.Context, rel string) error {
	for round := 0; ; round++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if round > 0 && h.freezes() { // one that cannot be frozen in time is hunted all the same
			if err := h.freeze(ctx, rel); err != nil && !errs.Is(err, errs.DeadlineExceeded) && !errs.Is(err, errs.NotFound) {
				return errors.Join(err, h.thaw(rel))
			}
		}
		victims, empty, err := h.signalAll(rel)
		if e := h.thaw(rel); err == nil {
			err = e
		}
		for _, v := range victims {
			if err == nil {
				err = v.AwaitReadable(ctx)
			}
			v.Close()
		}
		if err != nil || empty {
			return err
		}
	}
}

// signalAll sends SIGKILL to what is in a group and returns their pidfds. A PID is only trusted if it is still listed after its pidfd was opened:
// one that was given to another process meanwhile is not in the list, so nobody else is ever hit. The group is empty if nothing was listed.
func (h *hierarchy) signalAll(rel string) (victims []*linux.FD, empty bool, err error) {
	pids, err := h.processes(rel)
	if err != nil || len(pids) == 0 {
		return nil, err == nil, err
	}
	handles := make(map[int]*linux.FD, len(pids))
	defer func() {
		for _, f := range handles {
			f.Close()
		}
	}()
	for _, pid := range pids {
		f, err := linux.OpenPidfd(pid)
		if errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL) { // ended meanwhile, or reused by a thread
			continue
		}
		if err != nil {
			return nil, false, err
		}
		handles[pid] = f
	}
	still, err := h.processes(rel)
	if err != nil {
		return nil, false, err
	}
	for _, pid := range still {
		f := handles[pid]
		if f == nil {
			continue
		}
		if e := f.Signal(syscall.SIGKILL); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = errors.Join(err, e)
			continue
		}
		victims = append(victims, f)
		delete(handles, pid)
	}
	return victims, false, err
}

// await waits for a line "key value" in a v2 group's cgroup.events. A group that is gone has nothing left to wait for.
func (h *hierarchy) await(ctx context.Context, rel, key string, value uint64) error {
	f, err := h.open(rel, "cgroup.events", 0)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 256)
	for {
		n, err := f.Pread(buf, 0)
		if errs.Is(gone(err), errs.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if flat(string(buf[:n]))[key] == value {
			return nil
		}
		if err := f.AwaitNotification(ctx); err != nil {
			return err
		}
	}
}

// Freeze stops every process of the group and below it, and returns when all have stopped; on an error, they run again. Frozen processes cannot
// be waited out: thaw or kill them.
func (g *Group) Freeze(ctx context.Context) (err error) {
	if g.err != nil {
		return g.err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("freeze control group %s: %w", g.Path(), errors.Join(err, g.Thaw(ctx)))
		}
	}()
	h := g.tree.freezer()
	if h == nil {
		return errs.New(errs.Unimplemented, "this machine has no freezer")
	}
	return h.freeze(ctx, g.rel)
}

// Thaw lets the processes run again. A group that does not exist, or is not frozen, is fine.
func (g *Group) Thaw(context.Context) error {
	if g.err != nil {
		return g.err
	}
	if err := g.tree.thawAll(g.rel); err != nil {
		return fmt.Errorf("thaw control group %s: %w", g.Path(), err)
	}
	return nil
}

// freezer returns the hierarchy that freezes: v1's controller, or else v2's core.
func (t *Tree) freezer() *hierarchy {
	if h := t.with("freezer"); h != nil {
		return h
	}
	return t.unified
}

func (t *Tree) thawAll(rel string) error {
	if h := t.freezer(); h != nil {
		return h.thaw(rel)
	}
	return nil
}

func (h *hierarchy) freezes() bool { return h.version == V2 || h.has("freezer") }

// patience bounds what v1 has no event for: becoming frozen, and becoming empty.
const patience = 5 * time.Second

// freeze freezes a group. On v1 a process in the middle of fork may leave it FREEZING for ever until it is tried again (runc#2774), so each look
// that finds it so asks again.
func (h *hierarchy) freeze(ctx context.Context, rel string) error {
	if h.version == V2 {
		if err := h.write(rel, "cgroup.freeze", "1"); err != nil {
			return err
		}
		return h.await(ctx, rel, "frozen", 1)
	}
	return poll(ctx, func() (bool, error) {
		if err := h.write(rel, "freezer.state", "FROZEN"); err != nil {
			return false, err
		}
		state, err := h.read(rel, "freezer.state")
		return state == "FROZEN", err
	})
}

// thaw thaws a group and all below it: a container with its own view of the freezer may have frozen parts of itself.
func (h *hierarchy) thaw(rel string) error {
	file, running := "freezer.state", "THAWED"
	switch {
	case !h.freezes():
		return nil
	case h.version == V2:
		file, running = "cgroup.freeze", "0"
	}
	return h.walk(rel, func(rel string) error { return h.write(rel, file, running) })
}

// poll asks until done, first often, then every 20 ms: for what the kernel has no event for.
func poll(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
