package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/launch/report"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// users is a user namespace for a container's files: nil is the host's. What of a container is made here, by the host's root, is numbered for it:
// layers and volumes by idmapped mounts, which cost nothing a file, the few nodes that we make ourselves by their owner.
type users struct {
	*spec.Users
	ns *linux.FD // borrowed
}

// root is who root inside is on the host.
func (u *users) root() (uid, gid uint32) {
	if u == nil {
		return 0, 0
	}
	return u.Root()
}

func (u *users) hostUID(uid uint32) (uint32, error) {
	if u == nil {
		return uid, nil
	}
	return u.HostUID(uid)
}

func (u *users) hostGID(gid uint32) (uint32, error) {
	if u == nil {
		return gid, nil
	}
	return u.HostGID(gid)
}

// own makes what was made in a directory root's.
func (u *users) own(dir *linux.FD, name string) error {
	if u == nil {
		return nil
	}
	uid, gid := u.root()
	return dir.ChownEntry(name, uid, gid)
}

// options make a new filesystem's root directory root's.
func (u *users) options() []linux.Option {
	if u == nil {
		return nil
	}
	uid, gid := u.root()
	return []linux.Option{{Key: "uid", Value: fmt.Sprint(uid)}, {Key: "gid", Value: fmt.Sprint(gid)}}
}

// renumber gives a detached mount the namespace's numbering. EINVAL is the kernel's word for a filesystem that cannot.
func (u *users) renumber(mount *linux.FD, what string) error {
	err := mount.SetMountAttr(linux.MountAttr{Users: u.ns})
	if errors.Is(err, syscall.EINVAL) {
		return errs.New(errs.FailedPrecondition, "%s: its filesystem cannot be mounted for a user namespace (idmapped): %w", what, err)
	}
	return err
}

// usersOf is a container's user namespace.
func usersOf(c *engine.Container) (*users, error) {
	u := spec.UsersOf(c.Spec)
	switch {
	case u == nil && namespaceOf(c.Spec, "user") == nil:
		return nil, nil
	case u == nil || c.Namespaces.User == nil:
		return nil, errs.New(errs.InvalidArgument, "plan container %s: user namespace is to be the pod's, which was not given", c.ID)
	}
	return &users{u, c.Namespaces.User}, nil
}

// enterUsers makes the process root of a user namespace, with every capability there and none outside. What needs the host's root comes before.
func (a *assembly) enterUsers(ns *linux.FD) error {
	if err := a.enter("user", ns, linux.CloneNewUser); err != nil {
		return err
	}
	a.becomeRoot()
	return nil
}

// becomeRoot leaves the host's root, who is nobody in a user namespace just entered and could own nothing there.
func (a *assembly) becomeRoot() {
	a.Do("become group root of the user namespace", launch.Setresgid, 0, 0, 0)
	a.Do("become root of the user namespace", launch.Setresuid, 0, 0, 0)
}

// ownPIDNamespace continues the program in a child, the first process of a PID namespace that belongs to the user namespace just entered: one that
// the keeper cloned into would belong to the host.
func (a *assembly) ownPIDNamespace() {
	child, pid := a.NewLabel(), a.NewSlot()
	a.Do("clone into a PID namespace", launch.Clone, cloneParent|linux.CloneNewPID|int(syscall.SIGCHLD), 0, 0, 0, 0).Save(pid).JumpIfZero(child)
	a.ReportPID(pid)
	a.Do("leave it to the child", launch.ExitGroup, 0)
	a.Place(child)
}

// newUserNamespace makes a user namespace with a numbering. Its maps can be written by its parent's root alone, so a process makes it, waits as a
// pause and is ended; the descriptor keeps the namespace.
func (h *Handler) newUserNamespace(u *spec.Users) (*linux.FD, error) {
	pid, pidfd, err := h.unshareUsers()
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	defer pidfd.Close()
	ns, err := h.mapUsers(pid, u)
	pidfd.Signal(syscall.SIGKILL)
	if _, reaped := pidfd.WaitPidfd(); err == nil && reaped != nil {
		err = reaped
		ns.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return ns, nil
}

func (h *Handler) mapUsers(pid int, u *spec.Users) (*linux.FD, error) {
	uids := linux.IDMap{Inside: u.UIDs.ContainerID, Outside: u.UIDs.HostID, Length: u.UIDs.Size}
	gids := linux.IDMap{Inside: u.GIDs.ContainerID, Outside: u.GIDs.HostID, Length: u.GIDs.Size}
	if err := linux.MapUsers(h.procfs, pid, uids, gids); err != nil {
		return nil, err
	}
	return linux.NamespaceOf(pid, "user")
}

// unshareUsers starts a process that waits in a user namespace of its own.
func (h *Handler) unshareUsers() (int, *linux.FD, error) {
	a := h.assemble()
	defer a.abandon()
	a.Do("unshare user namespace", launch.Unshare, linux.CloneNewUser)
	exe, err := a.lend(h.stage.Pause)
	if err != nil {
		return 0, nil, err
	}
	a.Do("execute pause", launch.Execveat, exe, "", []string{"fermata-users"}, []string{}, atEmptyPath)
	program, err := a.Program()
	if err != nil {
		return 0, nil, err
	}
	memory, err := program.Memory()
	if err != nil {
		return 0, nil, err
	}
	defer memory.Close()
	said, tell, err := linux.OutputPipe()
	if err != nil {
		return 0, nil, err
	}
	defer said.Close()
	stdio := h.procfs // something; neither stage nor pause reads or writes
	pid, pidfd, err := linux.Spawn{
		Executable: h.stage.Stage, Args: []string{"fermata-stage"}, Files: append([]*linux.FD{stdio, stdio, stdio, tell, memory}, a.files...),
	}.Start()
	tell.Close()
	if err != nil {
		return 0, nil, err
	}
	r, err := report.Read(said)
	if err == nil && r.Failed {
		err = program.Failure(r.Op, r.Errno)
	}
	if err != nil {
		pidfd.Signal(syscall.SIGKILL)
		pidfd.WaitPidfd()
		pidfd.Close()
		return 0, nil, err
	}
	return pid, pidfd, nil
}

const facilityUsers = "user namespaces with idmapped overlay layers"

// probed is any numbering: what it does to one file shows whether it works.
var probed = &spec.Users{UIDs: specs.LinuxIDMapping{HostID: 100000, Size: 65536}, GIDs: specs.LinuxIDMapping{HostID: 200000, Size: 65536}}

// probeUsers tries what a pod with a user namespace needs, on the filesystem of the skeleton: a namespace, and an overlay over an idmapped layer.
func (h *Handler) probeUsers() error {
	if h.skeleton == "" {
		return errors.New("no directory to try in")
	}
	dir, err := os.MkdirTemp(path.Dir(h.skeleton), "probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"lower/file", "upper", "work"} {
		if err := os.MkdirAll(path.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	ns, err := h.newUserNamespace(probed)
	if err != nil {
		return err
	}
	defer ns.Close()
	m, err := h.overlay(engine.Rootfs{Lower: []string{path.Join(dir, "lower")}, Upper: path.Join(dir, "upper"), Work: path.Join(dir, "work")}, &users{probed, ns})
	if err != nil {
		return err
	}
	defer m.Close()
	st, err := m.StatEntry("file")
	if err != nil {
		return err
	}
	if uid, gid := probed.Root(); st.UID != uid || st.GID != gid {
		return fmt.Errorf("idmapped layer: owner %d:%d of a file is not %d:%d", st.UID, st.GID, uid, gid)
	}
	return nil
}
