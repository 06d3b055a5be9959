package native

import (
	"context"
	"fmt"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// Exec implements [engine.Handler]: one more process where a container's first one is. It gives up everything before the clone into the PID
// namespace, by the same ops as the container did.
func (h *Handler) Exec(ctx context.Context, e *engine.Exec) (*engine.Plan, error) {
	if err := canceled(ctx); err != nil {
		return nil, err
	}
	if e.Spec == nil || e.Spec.Linux == nil || e.Process == nil || e.Init == nil {
		return nil, errs.New(errs.InvalidArgument, "plan exec: spec, process and the container's first process must be given")
	}
	a := h.assemble()
	return a.done(a.exec(e))
}

// enterContainer names the operation that fails with ESRCH when the container's first process has ended: exec and end meet wherever a probe runs.
const enterContainer = "enter the container's namespaces"

func (a *assembly) exec(e *engine.Exec) error {
	id, err := identityOf(e.Process, e.Spec.Linux.Seccomp)
	if err != nil {
		return err
	}
	if err := a.joinCgroups(e.Join); err != nil {
		return err
	}
	if oom := e.Process.OOMScoreAdj; oom != nil {
		if err := a.oomScoreAdj(*oom); err != nil {
			return err
		}
	}
	if err := a.confine(e.Process); err != nil {
		return err
	}
	u, err := usersIn(e)
	if err != nil {
		return err
	}
	if e.Process.Terminal {
		if err := a.terminalIn(e.Init, e.Process, u); err != nil {
			return err
		}
	}
	init, err := a.lend(e.Init)
	if err != nil {
		return err
	}
	// All in one call, whichever are the container's own: a host's namespace is joined again. Only of a user namespace the kernel wants that it is
	// another one.
	all := linux.CloneNewNet | linux.CloneNewIPC | linux.CloneNewUTS | linux.CloneNewMount | linux.CloneNewPID | linux.CloneNewCgroup
	if u != nil {
		all |= linux.CloneNewUser
	}
	a.Do(enterContainer, launch.Setns, init, all)
	if u != nil {
		a.becomeRoot()
	}
	root := a.NewSlot()
	a.Do("open root", launch.Openat, atFDCWD, "/", oPath|oDirectory|oCloexec, 0).Save(root)
	enterAgain := a.enterDirectory(root, e.Process.Cwd)
	return a.start(start{e.Process, id, true, enterAgain})
}

// usersIn is the numbering of the container's user namespace. The kernel is asked too: with a spec that lacks it the exec would be the host's root in the
// container's place.
func usersIn(e *engine.Exec) (*users, error) {
	own, err := e.Init.HasOwnUsers()
	if err != nil {
		return nil, fmt.Errorf("plan exec: %w", err)
	}
	mapped := spec.UsersOf(e.Spec)
	switch {
	case own != (mapped != nil):
		return nil, errs.New(errs.Internal, "plan exec: the container's user namespace (own: %v) is not what its spec says (own: %v)", own, mapped != nil)
	case !own:
		return nil, nil
	}
	return &users{Users: mapped}, nil
}
