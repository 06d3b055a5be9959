package native

import (
	"fmt"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/launch"
	"fermata/internal/linux"
)

// This file has what the kernel's security modules are told. Until execve a process is as confined as the keeper that it comes from;
// with it, it becomes what it was to become, and it cannot come back.

const (
	labelAttribute = "security.selinux"
	// contextOption is the mount option for the label of all of a filesystem.
	contextOption = "context"
)

// confine makes execve change to the process's AppArmor profile or SELinux label. Who knows neither has no such file, and no such profile
// or label either.
func (a *assembly) confine(p *specs.Process) error {
	if p.ApparmorProfile != "" {
		if err := a.attribute("AppArmor profile", "apparmor/exec", "exec "+p.ApparmorProfile); err != nil {
			return err
		}
	}
	if p.SelinuxLabel != "" {
		return a.attribute("SELinux label", "exec", p.SelinuxLabel)
	}
	return nil
}

// attribute writes an attribute of the process, in a procfs that is attached nowhere: no mount of anybody's can be in the way, and what
// is written is what is meant (CVE-2019-16884, CVE-2025-52881).
func (a *assembly) attribute(what, file, text string) error {
	procfs, err := a.lend(a.h.procfs)
	if err != nil {
		return err
	}
	fd, how := a.NewSlot(), a.OpenHow(syscall.O_WRONLY, 0, resolveInRoot|resolveNoMagiclinks)
	a.Do("open attribute of "+what, launch.Openat2, procfs, "self/attr/"+file, how, launch.OpenHowSize).Save(fd)
	a.Do(fmt.Sprintf("set %s %q", what, text), launch.Write, fd, text, len(text))
	a.Do("close attribute of "+what, launch.Close, fd)
	return nil
}

// labelled adds the SELinux label of a filesystem to be made to its options.
func labelled(options []linux.Option, label string) []linux.Option {
	if label == "" {
		return options
	}
	return append(options, linux.Option{Key: contextOption, Value: label})
}

// labelRoot labels the root of a filesystem that takes no context: a message queue filesystem belongs to its namespace, which has made it. In a
// user namespace that may be the host's affair (EPERM): then the policy says who may have queues.
func (r *root) labelRoot(mount launch.Slot) {
	label := r.c.Spec.Linux.MountLabel
	if label == "" {
		return
	}
	dir := r.NewSlot()
	r.Do("open message queues", launch.Openat, mount, ".", syscall.O_RDONLY|oDirectory|oCloexec, 0).Save(dir)
	r.Do("label message queues", launch.Fsetxattr, dir, labelAttribute, label, len(label), 0).Ignore(syscall.EOPNOTSUPP, syscall.EPERM)
	r.Do("close message queues", launch.Close, dir)
}
