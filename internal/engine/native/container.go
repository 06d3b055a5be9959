package native

import (
	"context"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// Container implements [engine.Handler]. In Go: the rootfs and all volumes as detached mounts, and every place in the rootfs that a
// mount needs. In the program: joining, attaching, masking, becoming.
func (h *Handler) Container(ctx context.Context, c *engine.Container) (*engine.Plan, error) {
	if err := canceled(ctx); err != nil {
		return nil, err
	}
	if c.Spec == nil || c.Spec.Process == nil || c.Spec.Linux == nil || c.Namespaces.Mount == nil {
		return nil, errs.New(errs.InvalidArgument, "plan container %s: spec, its process and linux, and the pod's mount namespace must be given", c.ID)
	}
	a := h.assemble()
	return a.done(a.container(c))
}

func (a *assembly) container(c *engine.Container) error {
	id, err := identityOf(c.Spec.Process, c.Spec.Linux.Seccomp)
	if err != nil {
		return err
	}
	r, err := a.newRoot(c)
	if err != nil {
		return err
	}
	if err := a.joinCgroups(c.Join); err != nil {
		return err
	}
	if oom := c.Spec.Process.OOMScoreAdj; oom != nil {
		if err := a.oomScoreAdj(*oom); err != nil {
			return err
		}
	}
	if err := a.confine(c.Spec.Process); err != nil {
		return err
	}
	joins, err := a.join(c)
	if err != nil {
		return err
	}
	a.Do("attach rootfs", launch.MoveMount, r.number, "", atFDCWD, nurseryRoot, moveMountFEmptyPath)
	if err := r.mountAll(); err != nil {
		return err
	}
	if err := r.detachedTerminal(); err != nil {
		return err
	}
	if err := r.readOnlyPaths(c.Spec.Linux.ReadonlyPaths); err != nil {
		return err
	}
	if err := r.maskedPaths(c.Spec.Linux.MaskedPaths); err != nil {
		return err
	}
	if err := r.workingDirectory(c.Spec.Process.Cwd); err != nil {
		return err
	}
	if err := r.seal(c); err != nil {
		return err
	}
	a.pivot(r.number)
	enterAgain := a.enterDirectory(r.number, c.Spec.Process.Cwd)
	return a.start(start{c.Spec.Process, id, joins, enterAgain})
}

// start is what remains when a process is in its namespaces.
type start struct {
	*specs.Process
	id         identity
	joins      bool   // setns chose a PID namespace for its child
	enterAgain func() // from enterDirectory
}

// start ends a program: what the process is apart from its namespaces.
func (a *assembly) start(p start) error {
	a.reset()
	if err := a.limit(p.Rlimits); err != nil {
		return err
	}
	if !p.joins {
		a.terminal(p.Terminal)
	}
	if err := a.become(p.id); err != nil {
		return err
	}
	p.enterAgain()
	if p.joins {
		a.toPIDNamespace()
		a.terminal(p.Terminal)
	}
	a.lastFilter(p.id)
	return a.execute(p.Process)
}

// pivot makes the attached rootfs the root of the mount namespace, in which the nursery is no more then: pivot_root(2), "pivot_root(".", ".")".
func (a *assembly) pivot(root int) {
	a.Do("go to rootfs", launch.Fchdir, root)
	a.Do("make it the root", launch.PivotRoot, ".", ".")
	a.Do("detach nursery", launch.Umount2, ".", mntDetach)
}

// namespaceOf finds a namespace in a spec, nil if it is the host's.
func namespaceOf(s *specs.Spec, kind specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i, ns := range s.Linux.Namespaces {
		if ns.Type == kind {
			return &s.Linux.Namespaces[i]
		}
	}
	return nil
}

// join enters the pod's namespaces and a copy of its nursery. It reports whether the PID namespace is somebody else's, so that only a
// child can be in it. What the spec wants and the request lacks is an error: the host's namespace is never used instead.
func (a *assembly) join(c *engine.Container) (joins bool, err error) {
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		fd   *linux.FD
		flag int
	}{
		{specs.NetworkNamespace, c.Namespaces.Net, linux.CloneNewNet},
		{specs.UTSNamespace, c.Namespaces.UTS, linux.CloneNewUTS},
		{specs.IPCNamespace, c.Namespaces.IPC, linux.CloneNewIPC},
	} {
		want := namespaceOf(c.Spec, n.kind)
		if want == nil {
			continue
		}
		if want.Path == "" || n.fd == nil {
			return false, errs.New(errs.InvalidArgument, "plan container %s: %s namespace is to be the pod's, which was not given", c.ID, n.kind)
		}
		if err := a.enter(string(n.kind), n.fd, n.flag); err != nil {
			return false, err
		}
	}
	if joins, err = a.joinPID(c); err != nil {
		return false, err
	}
	if err := a.enter("pod's mount", c.Namespaces.Mount, linux.CloneNewMount); err != nil {
		return false, err
	}
	mapped := namespaceOf(c.Spec, specs.UserNamespace) != nil
	if mapped { // last: as its root nothing else could be entered that is the host's
		if err := a.enterUsers(c.Namespaces.User); err != nil {
			return false, err
		}
	}
	private := linux.CloneNewMount
	if namespaceOf(c.Spec, specs.CgroupNamespace) != nil {
		private |= linux.CloneNewCgroup
	}
	a.Do("unshare mount namespace", launch.Unshare, private)
	if pid := namespaceOf(c.Spec, specs.PIDNamespace); mapped && pid != nil && pid.Path == "" {
		a.ownPIDNamespace()
	}
	return joins, nil
}

func (a *assembly) joinPID(c *engine.Container) (bool, error) {
	want := namespaceOf(c.Spec, specs.PIDNamespace)
	if want == nil {
		return false, nil
	}
	if want.Path == "" {
		if namespaceOf(c.Spec, specs.UserNamespace) == nil { // else it is made later, see ownPIDNamespace
			a.plan.CloneFlags |= linux.CloneNewPID
		}
		return false, nil
	}
	fd := pidNamespace(c, want)
	if fd == nil {
		return false, errs.New(errs.InvalidArgument, "plan container %s: PID namespace is to be %q, which was not given", c.ID, want.Path)
	}
	return true, a.enter("PID", fd, linux.CloneNewPID)
}

// pidNamespace is the descriptor of the PID namespace to join.
func pidNamespace(c *engine.Container, want *specs.LinuxNamespace) *linux.FD {
	if strings.HasPrefix(want.Path, spec.TargetNamespace) {
		return c.TargetPID
	}
	return c.Namespaces.PID
}
