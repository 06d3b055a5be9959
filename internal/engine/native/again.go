package native

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/engine"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

// sandboxAgain puts a new pause into the namespaces that an earlier one made. They are all as they were but PID, which ended with its first process: the new
// one is the first of another, and the nursery's procfs shows that. Cgroups and OOM score are set.
func (a *assembly) sandboxAgain(s *engine.Sandbox) error {
	if err := a.confine(&specs.Process{SelinuxLabel: s.Labels.Process}); err != nil {
		return err
	}
	for _, ns := range []struct {
		name string
		fd   *linux.FD
		kind int
		has  bool
	}{
		{"network", s.Held.Net, linux.CloneNewNet, !s.HostNetwork},
		{"UTS", s.Held.UTS, linux.CloneNewUTS, !s.HostNetwork},
		{"IPC", s.Held.IPC, linux.CloneNewIPC, !s.HostIPC},
		{"the nursery's mount", s.Held.Mount, linux.CloneNewMount, true},
	} {
		if !ns.has {
			continue
		}
		if err := a.enter(ns.name, ns.fd, ns.kind); err != nil {
			return err
		}
	}
	switch {
	case s.Held.User != nil:
		if err := a.enterUsers(s.Held.User); err != nil {
			return err
		}
		a.ownPIDNamespace()
	case !s.HostPID:
		a.plan.CloneFlags |= linux.CloneNewPID
	}
	if !s.HostPID {
		procfs := a.filesystem("proc", mountAttrNoSuid|mountAttrNoDev|mountAttrNoExec) // while the old one is there: a user namespace may make one only beside another
		a.Do("detach procfs", launch.Umount2, nurseryProc, mntDetach)
		a.Do("attach procfs", launch.MoveMount, procfs, "", atFDCWD, nurseryProc, moveMountFEmptyPath)
	}
	return a.pause(s)
}
