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

// newUserNamespace makes a user namespace with a numbering. Its maps can be written by its parent's root alone, so a process makes it and waits meanwhile;
// the descriptor keeps the namespace.
func (h *Handler) newUserNamespace(u *spec.Users) (*linux.FD, error) {
	m, err := h.startMaker()
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	ns, err := m.make(h.procfs, u)
	if ended := m.end(); err == nil && ended != nil {
		err = ended
		ns.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return ns, nil
}

// maker is a process in a user namespace of its own. It ends with whoever holds the other end of its stdin: a daemon that is killed leaves none.
type maker struct {
	program        *launch.Program
	pid            int
	pidfd          *linux.FD
	hold           *os.File // its stdin's
	made, reported *os.File // tells one byte when the namespace is there; the report pipe
}

func (h *Handler) startMaker() (_ *maker, err error) {
	b := launch.NewBuilder(launch.Native())
	b.Do("unshare user namespace", launch.Unshare, linux.CloneNewUser)
	b.Do("say that it is there", launch.Write, 1, "+", 1)
	b.Do("wait for the maps", launch.Read, 0, b.Bytes(make([]byte, 1)), 1)
	b.Do("end", launch.ExitGroup, 0)
	m := &maker{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.program, err = b.Program(); err != nil {
		return nil, err
	}
	memory, err := m.program.Memory()
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	stdin, hold, err := linux.InputPipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	m.hold = hold
	made, stdout, err := linux.OutputPipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	m.made = made
	reported, tell, err := linux.OutputPipe()
	if err != nil {
		return nil, err
	}
	defer tell.Close()
	m.reported = reported
	files := []*linux.FD{stdin, stdout, stdout, tell, memory}
	m.pid, m.pidfd, err = linux.Spawn{Executable: h.stage.Stage, Args: []string{"fermata-stage"}, Files: files}.Start()
	return m, err
}

// make waits for the namespace, maps it and opens it.
func (m *maker) make(procfs *linux.FD, u *spec.Users) (*linux.FD, error) {
	if n, err := m.made.Read(make([]byte, 1)); n == 0 {
		r, reading := report.Read(m.reported)
		if reading == nil && r.Failed {
			return nil, m.program.Failure(r.Op, r.Errno)
		}
		return nil, fmt.Errorf("it ended before it was there: %w", errors.Join(err, reading))
	}
	uids := linux.IDMap{Inside: u.UIDs.ContainerID, Outside: u.UIDs.HostID, Length: u.UIDs.Size}
	gids := linux.IDMap{Inside: u.GIDs.ContainerID, Outside: u.GIDs.HostID, Length: u.GIDs.Size}
	if err := linux.MapUsers(procfs, m.pid, uids, gids); err != nil {
		return nil, err
	}
	return linux.NamespaceOf(m.pid, "user")
}

// end lets the process go and reaps it.
func (m *maker) end() error {
	m.hold.Close()
	_, err := m.pidfd.WaitPidfd()
	m.close()
	return err
}

func (m *maker) close() {
	for _, f := range []*os.File{m.hold, m.made, m.reported} {
		if f != nil {
			f.Close()
		}
	}
	m.pidfd.Close()
}

const facilityUsers = "user namespaces with idmapped overlay layers"

// probed is any numbering: what it does to one file shows whether it works.
var probed = &spec.Users{UIDs: specs.LinuxIDMapping{HostID: 100000, Size: 65536}, GIDs: specs.LinuxIDMapping{HostID: 200000, Size: 65536}}

// probeUsers tries what a pod with a user namespace needs, on the filesystem of the skeleton: a namespace, and an overlay over an idmapped layer.
func (h *Handler) probeUsers() error {
	if h.skeleton == "" {
		return errors.New("no directory to try in")
	}
	dir := h.skeleton + ".probe" // one name: what a killed daemon left is replaced
	if err := os.RemoveAll(dir); err != nil {
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
