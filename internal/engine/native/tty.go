package native

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

// devpts attaches the container's terminals. With a terminal of its own, the process gets the slave as stdin, stdout and stderr, and
// on /dev/console: a clone of the mount that the descriptor is of, no path (CVE-2025-52565).
func (r *root) devpts(m specs.Mount, o options) error {
	if err := r.users.terminalGroup(o.data); err != nil {
		return err
	}
	fs, err := linux.NewMount("devpts", o.attributes, labelled(o.data, r.c.Spec.Linux.MountLabel)...)
	if err != nil {
		return err
	}
	number := r.own(fs)
	if err := r.users.ownTerminals(fs); err != nil {
		return err
	}
	if r.c.Spec.Process.Terminal {
		if err := r.giveTerminal(fs, r.c.Spec.Process, r.users); err != nil {
			return err
		}
	}
	if err := r.attachDir(m, kernel, number); err != nil {
		return err
	}
	if !r.c.Spec.Process.Terminal || r.dev == nil {
		return nil
	}
	console := r.NewSlot()
	r.Do("clone terminal", launch.OpenTree, 0, "", openTreeClone|oCloexec|atEmptyPath).Save(console)
	return r.attach("/dev/console", volume, console, false)
}

// detachedTerminal gives the process a terminal that has no name in the container, if it has no terminals of its own (a volume covers
// /dev).
func (r *root) detachedTerminal() error {
	if !r.c.Spec.Process.Terminal || r.plan.Console != nil {
		return nil
	}
	fs, err := linux.NewMount("devpts", mountAttrNoSuid|mountAttrNoExec, labelled(nil, r.c.Spec.Linux.MountLabel)...)
	if err != nil {
		return err
	}
	r.own(fs)
	return r.giveTerminal(fs, r.c.Spec.Process, r.users)
}

// terminalGroup renumbers devpts' group of new terminals.
func (u *users) terminalGroup(data []linux.Option) error {
	for i, o := range data {
		if o.Key != "gid" {
			continue
		}
		inside, err := strconv.ParseUint(o.Value, 10, 32)
		if err != nil {
			return errs.New(errs.InvalidArgument, "option gid=%q is no number", o.Value)
		}
		gid, err := u.hostGID(uint32(inside))
		if err != nil {
			return err
		}
		data[i].Value = fmt.Sprint(gid)
	}
	return nil
}

// ownTerminals makes what a new devpts has root's.
func (u *users) ownTerminals(devpts *linux.FD) error {
	if u == nil {
		return nil
	}
	uid, gid := u.root()
	if err := devpts.Chown(uid, gid); err != nil {
		return err
	}
	return u.own(devpts, "ptmx")
}

// giveTerminal makes a terminal of a devpts filesystem the stdio of the process, its user's in the container's numbering.
func (a *assembly) giveTerminal(devpts *linux.FD, p *specs.Process, u *users) error {
	master, slave, err := devpts.NewTerminal()
	if err != nil {
		return err
	}
	a.plan.Console, a.plan.Stdin = master, slave
	const ttyGroup = 5 // the spec's gid=5; a terminal is its user's
	uid, err := u.hostUID(p.User.UID)
	if err != nil {
		return err
	}
	gid, err := u.hostGID(ttyGroup)
	if err != nil {
		return err
	}
	if err := slave.Chown(uid, gid); err != nil {
		return err
	}
	if p.ConsoleSize != nil {
		if err := master.SetTerminalSize(uint16(p.ConsoleSize.Height), uint16(p.ConsoleSize.Width)); err != nil {
			return err
		}
	}
	if a.plan.Stdout, err = slave.Dup(); err != nil {
		return err
	}
	a.plan.Stderr, err = slave.Dup()
	return err
}

// terminalIn makes a terminal of the container in which init (a pidfd) runs, so that its processes can name it. The container may have
// put anything at /dev/pts: what is no devpts is refused.
func (a *assembly) terminalIn(init *linux.FD, p *specs.Process, u *users) error {
	var devpts *linux.FD
	err := linux.OnThrowAwayThread(func() error {
		if err := init.Setns(linux.CloneNewMount); err != nil {
			return err
		}
		root, err := linux.OpenDir("/")
		if err != nil {
			return err
		}
		defer root.Close()
		devpts, err = root.OpenNoLinks("dev/pts", syscall.O_DIRECTORY|oPath, 0)
		return err
	})
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ELOOP) {
		return errs.New(errs.FailedPrecondition, "make terminal: the container has no /dev/pts of its own: %w", err)
	}
	if err != nil {
		return fmt.Errorf("make terminal: %w", err)
	}
	defer devpts.Close()
	return a.giveTerminal(devpts, p, u)
}
