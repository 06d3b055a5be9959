package native

import (
	"context"
	"slices"
	"strconv"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

const defaultShmSize = 64 << 20

// Sandbox implements [engine.Handler]: pause is born in the pod's namespaces, sets them up, and gives up everything. Its mount
// namespace is the pod's nursery.
func (h *Handler) Sandbox(ctx context.Context, s *engine.Sandbox) (*engine.Plan, error) {
	if err := canceled(ctx); err != nil {
		return nil, err
	}
	a := h.assemble()
	return a.done(a.sandbox(s))
}

func (a *assembly) sandbox(s *engine.Sandbox) error {
	if err := spec.CheckHostname(s.Hostname); err != nil {
		return err
	}
	if err := spec.CheckSysctls(s.Sysctls, s.HostNetwork, s.HostIPC); err != nil {
		return err
	}
	if err := a.joinCgroups(s.Join); err != nil {
		return err
	}
	if err := a.oomScoreAdj(s.OOMScoreAdj); err != nil {
		return err
	}
	switch {
	case s.Held != nil:
		return a.sandboxAgain(s)
	case s.Users != nil:
		return a.mappedSandbox(s)
	}
	a.plan.CloneFlags |= podNamespaces(s)
	if !s.HostPID {
		a.plan.CloneFlags |= linux.CloneNewPID
	}
	if err := a.configure(s); err != nil {
		return err
	}
	if err := a.podNursery(s); err != nil {
		return err
	}
	return a.pause(s)
}

// mappedSandbox is for a pod with a user namespace. That comes first, so that all others belong to it, the network's sysctls and the host name with
// them; then pause has no more to say on the host than any process of the pod.
func (a *assembly) mappedSandbox(s *engine.Sandbox) error {
	if s.HostIPC || s.HostPID {
		return errs.New(errs.InvalidArgument, "plan sandbox %s: a user namespace goes with neither the host's IPC nor its PID namespace", s.ID)
	}
	if a.h.noUsers != nil {
		return errs.New(errs.Unimplemented, "user namespaces do not work on this node: %w", a.h.noUsers)
	}
	ns, err := a.h.newUserNamespace(s.Users)
	if err != nil {
		return err
	}
	number := a.own(ns)
	if err := a.enter("the nursery's mount", a.h.revealing, linux.CloneNewMount); err != nil {
		return err
	}
	a.Do("enter user namespace", launch.Setns, number, linux.CloneNewUser)
	a.becomeRoot()
	a.Do("unshare the pod's namespaces", launch.Unshare, podNamespaces(s)|linux.CloneNewMount)
	if err := a.configure(s); err != nil {
		return err
	}
	a.ownPIDNamespace()
	if err := a.mappedNursery(s, &users{s.Users, ns}); err != nil {
		return err
	}
	return a.pause(s)
}

// podNamespaces are those that a pod's containers share, but for PID.
func podNamespaces(s *engine.Sandbox) (flags uint64) {
	if !s.HostNetwork {
		flags |= linux.CloneNewNet | linux.CloneNewUTS
	}
	if !s.HostIPC {
		flags |= linux.CloneNewIPC
	}
	return flags
}

// configure sets the namespaces up in which the process is.
func (a *assembly) configure(s *engine.Sandbox) error {
	if err := a.confine(&specs.Process{SelinuxLabel: s.Labels.Process}); err != nil {
		return err
	}
	if s.Hostname != "" && !s.HostNetwork {
		a.Do("set host name", launch.Sethostname, s.Hostname, len(s.Hostname))
	}
	return a.sysctls(s.Sysctls)
}

// sysctls are written to files of a procfs that nobody can cover, in one write each: a value is never more than a value (CVE-2022-0811). Which
// namespace a file means is the writer's.
func (a *assembly) sysctls(sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	procfs, err := a.lend(a.h.procfs)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(sysctls))
	for n := range sysctls {
		names = append(names, n)
	}
	slices.Sort(names)
	how, file := a.OpenHow(syscall.O_WRONLY, 0, resolveInRoot|resolveNoMagiclinks|resolveNoSymlinks), a.NewSlot()
	for _, n := range names {
		p, err := spec.SysctlPath(n)
		if err != nil {
			return err
		}
		a.Do("open sysctl "+n, launch.Openat2, procfs, "sys/"+p, how, launch.OpenHowSize).Save(file)
		a.Do("set sysctl "+n, launch.Write, file, sysctls[n], len(sysctls[n]))
		a.Do("close sysctl "+n, launch.Close, file)
	}
	return nil
}

// podNursery makes the pod's copy of the nursery and puts in what containers share.
func (a *assembly) podNursery(s *engine.Sandbox) error {
	nursery, err := a.lend(a.h.nursery)
	if err != nil {
		return err
	}
	a.Do("enter nursery", launch.Setns, nursery, linux.CloneNewMount)
	a.Do("unshare mount namespace", launch.Unshare, linux.CloneNewMount)
	if !s.HostIPC {
		if err := a.sharedMemory(s, nil); err != nil {
			return err
		}
	}
	if !s.HostPID { // not SharedPID alone: a container may ask for the pod's where the pod asked for none, as crictl's do
		a.Do("attach procfs", launch.MoveMount, a.filesystem("proc", mountAttrNoSuid|mountAttrNoDev|mountAttrNoExec), "", atFDCWD, nurseryProc, moveMountFEmptyPath)
	}
	return nil
}

func (a *assembly) sharedMemory(s *engine.Sandbox, u *users) error {
	size := s.ShmSize
	if size <= 0 {
		size = defaultShmSize
	}
	options := []linux.Option{{Key: "size", Value: strconv.FormatInt(size, 10)}, {Key: "mode", Value: "1777"}, {Key: "source", Value: "shm"}}
	shm, err := linux.NewMount("tmpfs", mountAttrNoSuid|mountAttrNoDev|mountAttrNoExec, labelled(append(options, u.options()...), s.Labels.Mount)...)
	if err != nil {
		return err
	}
	a.Do("attach shared memory", launch.MoveMount, a.own(shm), "", atFDCWD, nurseryShm, moveMountFEmptyPath)
	return nil
}

// mappedNursery makes the pod's nursery in the copy of the revealing one and leaves all of that behind, the host's procfs with it.
func (a *assembly) mappedNursery(s *engine.Sandbox, u *users) error {
	tree, err := nurseryTree(a.h.label)
	if err != nil {
		return err
	}
	const attributes = mountAttrNoSuid | mountAttrNoDev | mountAttrNoExec
	number := a.own(tree)
	procfs := a.filesystem("proc", attributes)
	var sysfs launch.Slot
	if !s.HostNetwork {
		sysfs = a.filesystem("sysfs", attributes)
	}
	a.Do("attach nursery", launch.MoveMount, number, "", atFDCWD, nurseryRoot, moveMountFEmptyPath)
	a.pivot(number)
	if err := a.sharedMemory(s, u); err != nil {
		return err
	}
	a.Do("attach procfs", launch.MoveMount, procfs, "", atFDCWD, nurseryProc, moveMountFEmptyPath)
	if !s.HostNetwork {
		a.Do("attach sysfs", launch.MoveMount, sysfs, "", atFDCWD, nurserySys, moveMountFEmptyPath)
	}
	return nil
}

// filesystem makes a filesystem whose contents depend on the namespaces of the process that makes it; it returns the detached mount.
func (a *assembly) filesystem(kind string, attributes int) launch.Slot {
	fs, mount := a.NewSlot(), a.NewSlot()
	a.Do("open filesystem "+kind, launch.Fsopen, kind, fsopenCloexec).Save(fs)
	a.Do("create filesystem "+kind, launch.Fsconfig, fs, fsconfigCreate, nil, nil, 0)
	a.Do("mount filesystem "+kind, launch.Fsmount, fs, fsmountCloexec, attributes).Save(mount)
	return mount
}

// pause gives up everything and becomes the pause process. With SIGCHLD ignored, also after execve, the kernel reaps the orphans of the
// pod's PID namespace.
func (a *assembly) pause(s *engine.Sandbox) error {
	exe, err := a.lend(a.h.stage.Pause)
	if err != nil {
		return err
	}
	a.reset()
	a.Do("have children reaped", launch.RtSigaction, int(syscall.SIGCHLD), a.SigAction(launch.SigIgnore), nil, launch.SigsetSize)
	a.terminal(false)
	if err := a.become(identity{uid: s.UID, gid: s.GID, noNewPriv: true}); err != nil {
		return err
	}
	a.command = "pause"
	a.Do("execute pause", launch.Execveat, exe, "", []string{"fermata-pause"}, []string{}, atEmptyPath)
	return nil
}
