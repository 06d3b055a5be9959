package native

import (
	"fmt"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// root is a container's root being put together: the detached rootfs, and what the program is going to attach to it.
type root struct {
	*assembly
	c      *engine.Container
	fd     *linux.FD // the rootfs, owned by the assembly
	number int       // its descriptor in the process
	users  *users    // whose files these are; nil: the host's users'
	// mounted are the places in the root that the program attaches to, by path, in order.
	mounted []mounted
	dev     *linux.FD // our /dev while it can be filled; nil if the container has another one
	at      launch.Slot
}

type mounted struct {
	path string
	kind mountKind
}

// mountKind says who can make a missing place below a mount.
type mountKind uint8

const (
	volume mountKind = iota // the program, when it is attached
	device                  // our /dev: we, now
	kernel                  // nobody: proc, sysfs, cgroup
)

func (a *assembly) newRoot(c *engine.Container) (*root, error) {
	c.Rootfs.Label = c.Spec.Linux.MountLabel
	u, err := usersOf(c)
	if err != nil {
		return nil, err
	}
	fd, err := a.h.overlay(c.Rootfs, u)
	if err != nil {
		return nil, err
	}
	return &root{assembly: a, c: c, fd: fd, number: a.own(fd), users: u, at: a.NewSlot()}, nil
}

// mountAll attaches the spec's mounts, in its order.
func (r *root) mountAll() error {
	for _, m := range r.c.Spec.Mounts {
		if err := r.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

func (r *root) mount(m specs.Mount) error {
	o, err := parseOptions(m.Options)
	if err != nil {
		return err
	}
	switch m.Type {
	case "bind":
		return r.bind(m, o)
	case "proc":
		return r.proc(m, o)
	case "sysfs":
		return r.sysfs(m, o)
	case "mqueue":
		mount := r.filesystem(m.Type, o.attributes)
		r.labelRoot(mount)
		return r.attachDir(m, kernel, mount)
	case "cgroup":
		return r.cgroup(m, o)
	case "devpts":
		return r.devpts(m, o)
	case "tmpfs":
		data := append([]linux.Option{{Key: "source", Value: m.Source}}, r.users.options()...)
		fs, err := linux.NewMount("tmpfs", o.attributes, labelled(append(data, o.data...), r.c.Spec.Linux.MountLabel)...)
		if err != nil {
			return err
		}
		if m.Destination != "/dev" {
			return r.attachDir(m, volume, r.own(fs))
		}
		r.own(fs)
		r.dev = fs
		if err := r.fillDev(); err != nil {
			return err
		}
		return r.attachDir(m, device, launch.FirstFD+len(r.files)-1)
	}
	return errs.New(errs.InvalidArgument, "type %q is not known", m.Type)
}

// proc attaches a procfs of the container's PID namespace. One that is joined cannot be seen from here: a pod's is in its nursery, another
// container's can be asked for by descriptor on newer kernels.
func (r *root) proc(m specs.Mount, o options) error {
	want := namespaceOf(r.c.Spec, specs.PIDNamespace)
	switch {
	case want == nil || want.Path == "":
		return r.attachDir(m, kernel, r.filesystem("proc", o.attributes))
	case !strings.HasPrefix(want.Path, spec.TargetNamespace):
		proc := r.NewSlot()
		r.Do("clone pod's procfs", launch.OpenTree, atFDCWD, nurseryProc, openTreeClone|oCloexec).Save(proc)
		return r.attachDir(m, kernel, proc)
	case !r.h.features.Facilities[facilityProcPIDNS]:
		return errs.New(errs.Unimplemented, "a target container's processes can be shown from Linux 6.17 on only")
	}
	fs, err := linux.NewMount("proc", o.attributes, linux.Option{Key: "pidns", FD: r.c.TargetPID})
	if err != nil {
		return err
	}
	return r.attachDir(m, kernel, r.own(fs))
}

// sysfs attaches the one of the container's network namespace. In a user namespace it is the pod's, from the nursery; of the host's network, which
// that does not own, it can only be given, and only to look at.
func (r *root) sysfs(m specs.Mount, o options) error {
	switch {
	case r.users == nil:
		return r.attachDir(m, kernel, r.filesystem("sysfs", o.attributes))
	case namespaceOf(r.c.Spec, specs.NetworkNamespace) == nil:
		fs, err := linux.NewMount("sysfs", o.attributes|mountAttrReadOnly)
		if err != nil {
			return err
		}
		return r.attachDir(m, kernel, r.own(fs))
	}
	clone := r.NewSlot()
	r.Do("clone pod's sysfs", launch.OpenTree, atFDCWD, nurserySys, openTreeClone|oCloexec).Save(clone)
	r.Do("set attributes of sysfs", launch.MountSetattr, clone, "", atEmptyPath, r.MountAttr(uint64(o.attributes), 0, 0, 0), launch.MountAttrSize)
	return r.attachDir(m, kernel, clone)
}

const facilityProcPIDNS = "procfs of another PID namespace"

func (h *Handler) probeProcPIDNS() bool {
	ns, err := linux.Open("/proc/self/ns/pid", syscall.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer ns.Close()
	fs, err := linux.NewMount("proc", 0, linux.Option{Key: "pidns", FD: ns})
	return err == nil && fs.Close() == nil
}

func (r *root) attachDir(m specs.Mount, kind mountKind, mount any) error {
	return r.attach(m.Destination, kind, mount, true)
}

// seal is the last that is done to the rootfs before the launch.
func (r *root) seal(c *engine.Container) error {
	if !c.Rootfs.ReadOnly && !(c.Spec.Root != nil && c.Spec.Root.Readonly) {
		return nil
	}
	return r.fd.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly})
}
