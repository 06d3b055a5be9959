package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
	"fermata/internal/pod"
	"fermata/internal/spec"
)

// pauseID is the user and group of pause: nobody's, and nobody else's on a usual system.
const pauseID = 65535

// userFileLimit bounds /etc/passwd and /etc/group of an image, in bytes (CVE-2024-9676).
const userFileLimit = 1 << 20

// maxUserFiles is of how many images they are kept.
const maxUserFiles = 128

// launcher turns a pod's wishes into plans (engine) and sends them to the keeper.
type launcher struct {
	*parts
	mu    sync.Mutex
	users map[string]userFiles // by image ID: layers do not change
}

type userFiles struct{ passwd, group []byte }

var _ pod.Runtime = (*launcher)(nil)

func newLauncher(p *parts) *launcher { return &launcher{parts: p, users: map[string]userFiles{}} }

// StartSandbox launches pause.
func (r *launcher) StartSandbox(ctx context.Context, s *pod.SandboxStart) (*pod.Process, error) {
	join, err := s.Cgroup.Join()
	if err != nil {
		return nil, err
	}
	defer join.Close()
	sc := s.Config.GetLinux().GetSecurityContext()
	ns := sc.GetNamespaceOptions()
	users, err := spec.PodUsers(s.Config)
	if err != nil {
		return nil, err
	}
	held, err := r.heldBefore(ctx, s)
	if err != nil {
		return nil, err
	}
	defer held.close()
	plan, err := r.engine.Sandbox(ctx, &engine.Sandbox{
		Held: held.namespaces(), ID: s.ID, Hostname: s.Hostname, Join: join, Sysctls: s.Config.GetLinux().GetSysctls(),
		HostNetwork: ns.GetNetwork() == runtimeapi.NamespaceMode_NODE, HostIPC: ns.GetIpc() == runtimeapi.NamespaceMode_NODE,
		HostPID: ns.GetPid() == runtimeapi.NamespaceMode_NODE, SharedPID: ns.GetPid() == runtimeapi.NamespaceMode_POD,
		UID: pauseUser(users), GID: pauseUser(users), Users: users, OOMScoreAdj: pauseOOMScore, Labels: s.Labels,
	})
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	l := &wire.Launch{ID: s.ID, Kind: wire.Pause, Again: s.Again, Stdin: wire.Null, Stdout: wire.Null, Stderr: wire.Null}
	oom, err := passOOM(l, s.Cgroup)
	if err != nil {
		return nil, err
	}
	defer oom.Close()
	proc, err := r.launch(ctx, plan, l)
	if err != nil {
		return nil, err
	}
	if err := r.keeper.holds.takePod(ctx, r.keeper.client(), s.ID); err != nil {
		r.log.Error("hold a pod's namespaces beside the keeper: they would be lost with that and pause", "pod", s.ID, "error", err)
	}
	return proc, nil
}

// passOOM has the keeper count what the kernel kills in a cgroup for want of memory; nil without such a count. The caller closes it after the launch.
func passOOM(l *wire.Launch, group *cgroup.Group) (*linux.FD, error) {
	oom, err := group.OOM()
	switch {
	case err == nil:
		l.FDs = append(l.FDs, wire.PassedFD{Role: wire.OOM, FD: oom})
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	return oom, nil
}

// heldNamespaces are those of a pod whose pause has ended.
type heldNamespaces struct {
	all  map[string]*linux.FD
	user *linux.FD
}

// heldBefore are the namespaces for a pause that takes another's place; none for a pod's first.
func (r *launcher) heldBefore(ctx context.Context, s *pod.SandboxStart) (h heldNamespaces, err error) {
	if !s.Again {
		return h, nil
	}
	h.all, err = r.keeper.Namespaces(ctx, s.ID)
	if errs.Is(err, errs.FailedPrecondition) { // a keeper that follows one that was killed, as pause was: it came too late
		if held, e := r.keeper.holds.pod(s.ID); held != nil || e != nil {
			h.all, err = held, e
		}
	}
	if err != nil {
		return h, err
	}
	users, err := spec.PodUsers(s.Config)
	if err == nil && users != nil {
		h.user, err = h.all["mnt"].UserNamespaceOf()
	}
	if err != nil {
		h.close()
	}
	return h, err
}

func (h *heldNamespaces) close() {
	closeNamespaces(h.all)
	h.user.Close()
}

func (h *heldNamespaces) namespaces() *engine.Namespaces {
	if h.all == nil {
		return nil
	}
	return &engine.Namespaces{Net: h.all["net"], IPC: h.all["ipc"], UTS: h.all["uts"], Mount: h.all["mnt"], User: h.user}
}

// pauseUser is pauseID where the pod has that, else its last user.
func pauseUser(u *spec.Users) uint32 {
	if u == nil {
		return pauseID
	}
	return min(pauseID, u.UIDs.Size-1)
}

// pauseOOMScore keeps pause alive when memory is short, as every runtime does.
const pauseOOMScore = -998

// StartContainer launches a container's first process.
func (r *launcher) StartContainer(ctx context.Context, c *pod.ContainerStart) (*pod.Process, error) {
	join, err := c.Cgroup.Join()
	if err != nil {
		return nil, err
	}
	defer join.Close()
	held, err := r.keeper.Namespaces(ctx, c.SandboxID)
	if err != nil {
		return nil, err
	}
	defer closeNamespaces(held)
	target, err := r.targetPID(ctx, c.TargetID)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	namespaces := podNamespaces(held, c)
	if spec.UsersOf(c.Spec) != nil {
		if namespaces.User, err = namespaces.Mount.UserNamespaceOf(); err != nil {
			return nil, err
		}
		defer namespaces.User.Close()
	}
	plan, err := r.engine.Container(ctx, &engine.Container{
		ID: c.ID, Spec: c.Spec, Join: join, TargetPID: target, Namespaces: namespaces, Sources: c.Volumes, Relabel: c.Relabel,
		Rootfs: engine.Rootfs{
			Lower: c.Lowers, Upper: filepath.Join(c.Dir, "upper"), Work: filepath.Join(c.Dir, "work"), ReadOnly: c.Spec.Root.Readonly, Volatile: true,
		},
	})
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	l := &wire.Launch{ID: c.ID, Kind: wire.Container}
	if l.StdioUID, l.StdioGID, err = stdioOwner(c.Spec, c.Spec.Process); err != nil {
		return nil, err
	}
	if err := r.containerStdio(l, c); err != nil {
		return nil, err
	}
	if c.LogDir != nil {
		l.FDs = append(l.FDs, wire.PassedFD{Role: wire.LogDir, FD: c.LogDir})
	}
	oom, err := passOOM(l, c.Cgroup)
	if err != nil {
		return nil, err
	}
	defer oom.Close()
	proc, err := r.launch(ctx, plan, l)
	if err != nil {
		return nil, err
	}
	if err := r.keeper.holds.take(ctx, r.keeper.client(), c.ID, proc.Pidfd, plan.Console); err != nil {
		r.log.Error("hold what a container has beside the keeper: it would be lost with that", "container", c.ID, "error", err)
	}
	return proc, nil
}

// podNamespaces are those of the pod that the container does not share with the host.
func podNamespaces(held map[string]*linux.FD, c *pod.ContainerStart) engine.Namespaces {
	sandbox := c.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions()
	ns := engine.Namespaces{Mount: held["mnt"]}
	if sandbox.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		ns.Net, ns.UTS = held["net"], held["uts"]
	}
	if sandbox.GetIpc() != runtimeapi.NamespaceMode_NODE {
		ns.IPC = held["ipc"]
	}
	if c.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == runtimeapi.NamespaceMode_POD {
		ns.PID = held["pid"]
	}
	return ns
}

// targetPID opens the PID namespace of the container to be joined; nil without one.
func (r *launcher) targetPID(ctx context.Context, id string) (*linux.FD, error) {
	if id == "" {
		return nil, nil
	}
	return r.namespaceOf(ctx, id, "pid")
}

// namespaceOf opens a namespace of a running process: the handle is asked for life afterwards, so that a reused PID is not mistaken.
func (r *launcher) namespaceOf(ctx context.Context, id, kind string) (*linux.FD, error) {
	pidfd, err := r.keeper.Pidfd(ctx, id)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	pid, err := pidfd.PID()
	if err != nil {
		return nil, err
	}
	ns, err := linux.NamespaceOf(pid, kind)
	if err != nil {
		return nil, err
	}
	if err := pidfd.Signal(0); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// Exec launches one more process in a container.
func (r *launcher) Exec(ctx context.Context, e *pod.ExecStart) (*pod.Process, error) {
	join, err := e.Cgroup.Join()
	if err != nil {
		return nil, err
	}
	defer join.Close()
	plan, err := r.engine.Exec(ctx, &engine.Exec{Spec: e.Spec, Process: e.Process, Init: e.Init, Join: join})
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	l := &wire.Launch{ID: e.ID, Kind: wire.Exec}
	if e.Process.Terminal {
		l.Stdin, l.Stdout, l.Stderr = wire.Given, wire.Given, wire.Given
	} else if err := execStdio(l, e); err != nil {
		return nil, err
	}
	// The terminal is the client's who asked, not the keeper's: it hangs up when this daemon, and the client with it, is gone.
	console := plan.Console
	plan.Console = nil
	proc, err := r.launch(ctx, plan, l)
	if err != nil {
		console.Close()
		return nil, err
	}
	proc.Console = console
	return proc, nil
}

// launch sends a plan to the keeper. A failure of the program is told in the plan's words.
func (r *launcher) launch(ctx context.Context, plan *engine.Plan, l *wire.Launch) (*pod.Process, error) {
	program, err := plan.Program.Memory()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	l.CloneFlags = plan.CloneFlags
	pass := func(role wire.Role, fd *linux.FD) {
		if fd != nil {
			l.FDs = append(l.FDs, wire.PassedFD{Role: role, FD: fd})
		}
	}
	pass(wire.Stage, r.stage.Stage)
	pass(wire.Program, program)
	pass(wire.Cgroup, plan.Cgroup)
	pass(wire.Stdin, plan.Stdin)
	pass(wire.Stdout, plan.Stdout)
	pass(wire.Stderr, plan.Stderr)
	pass(wire.Console, plan.Console)
	for _, f := range plan.Files {
		pass(wire.Child, f)
	}
	got, err := r.keeper.Launch(ctx, l)
	var failed *wire.LaunchError
	if errors.As(err, &failed) && failed.Op >= 0 {
		return nil, linux.Refused(plan.Failure(failed.Op, failed.Errno)) // a command that is not there, a directory that is a file
	}
	if err != nil {
		return nil, err
	}
	return &pod.Process{PID: got.PID, Inode: got.PidfdInode, Started: got.Started, Pidfd: got.Pidfd}, nil
}

// UserFiles reads an image's /etc/passwd and /etc/group, once an image.
func (r *launcher) UserFiles(_ context.Context, img *pod.Image) (passwd, group []byte, err error) {
	r.mu.Lock()
	had, ok := r.users[img.ID]
	r.mu.Unlock()
	if ok {
		return had.passwd, had.group, nil
	}
	var read userFiles
	for path, into := range map[string]*[]byte{"/etc/passwd": &read.passwd, "/etc/group": &read.group} {
		b, err := r.engine.ReadRootfsFile(img.Lowers, path, userFileLimit)
		if err != nil && !errs.Is(err, errs.NotFound) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return nil, nil, err
		}
		*into = b
	}
	r.mu.Lock()
	if len(r.users) >= maxUserFiles { // images come and go
		clear(r.users)
	}
	r.users[img.ID] = read
	r.mu.Unlock()
	return read.passwd, read.group, nil
}

// Devices looks devices up on the host.
func (r *launcher) Devices(hostPath string) ([]specs.LinuxDevice, error) {
	if !filepath.IsAbs(hostPath) {
		return nil, errs.New(errs.InvalidArgument, "find device: host_path %q is not absolute", hostPath)
	}
	found, err := linux.Devices(hostPath)
	if err != nil {
		return nil, errs.As(errs.InvalidArgument, err)
	}
	if len(found) == 0 {
		return nil, errs.New(errs.InvalidArgument, "find device: %s is no device and has none below it", hostPath)
	}
	return ociDevices(found), nil
}

func closeNamespaces(held map[string]*linux.FD) {
	for _, fd := range held {
		fd.Close()
	}
}
