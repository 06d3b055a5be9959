package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
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
	fd, err := a.h.overlay(c.Rootfs)
	if err != nil {
		return nil, err
	}
	return &root{assembly: a, c: c, fd: fd, number: a.own(fd), at: a.NewSlot()}, nil
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
	case "sysfs", "mqueue":
		return r.attachDir(m, kernel, r.filesystem(m.Type, o.attributes))
	case "cgroup":
		return r.cgroup(m, o)
	case "devpts":
		return r.devpts(m, o)
	case "tmpfs":
		fs, err := linux.NewMount("tmpfs", o.attributes, append([]linux.Option{{Key: "source", Value: m.Source}}, o.data...)...)
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

// options are mount options as the spec has them, understood.
type options struct {
	attributes  int // of mount_setattr(2) and fsmount(2)
	recursive   bool
	recursiveRO bool
	propagation uint64 // of msPrivate, msSlave, msShared; 0 leaves it
	below       bool   // propagation of the whole tree
	data        []linux.Option
}

func parseOptions(list []string) (options, error) {
	var o options
	for _, s := range list {
		switch s {
		case "bind", "rw", "relatime", "exec", "dev", "suid":
		case "rbind":
			o.recursive = true
		case "ro":
			o.attributes |= mountAttrReadOnly
		case "rro":
			o.attributes |= mountAttrReadOnly
			o.recursiveRO = true
		case "nosuid":
			o.attributes |= mountAttrNoSuid
		case "nodev":
			o.attributes |= mountAttrNoDev
		case "noexec":
			o.attributes |= mountAttrNoExec
		case "noatime":
			o.attributes |= mountAttrNoAtime
		case "strictatime":
			o.attributes |= mountAttrStrictAtime
		case "private", "rprivate":
			o.propagation, o.below = msPrivate, s[0] == 'r'
		case "slave", "rslave":
			o.propagation, o.below = msSlave, s[0] == 'r'
		case "shared", "rshared":
			o.propagation, o.below = msShared, s[0] == 'r'
		default:
			key, value, _ := strings.Cut(s, "=")
			o.data = append(o.data, linux.Option{Key: key, Value: value})
		}
	}
	return o, nil
}

// bind attaches a clone of something: given by descriptor, of the pod's nursery, or of the host.
func (r *root) bind(m specs.Mount, o options) error {
	if len(o.data) != 0 {
		return errs.New(errs.InvalidArgument, "option %q is not known for a volume", o.data[0].Key)
	}
	if m.Source == spec.PodShm {
		shm := r.NewSlot()
		r.Do("clone shared memory", launch.OpenTree, atFDCWD, nurseryShm, openTreeClone|oCloexec).Save(shm)
		return r.attachDir(m, volume, shm)
	}
	var clone *linux.FD
	var err error
	if given := r.c.Sources[m.Destination]; given != nil {
		clone, err = given.Dup()
	} else {
		clone, err = cloneOfHost(m.Source, o)
	}
	if err != nil {
		return err
	}
	number := r.own(clone)
	if err := o.apply(clone); err != nil {
		return err
	}
	st, err := clone.Stat()
	if err != nil {
		return err
	}
	return r.attach(m.Destination, volume, number, st.IsDir())
}

// apply sets a volume's attributes while nobody sees it: there is no moment in which it is writable (or shared) and should not be.
func (o options) apply(clone *linux.FD) error {
	if o.propagation == msPrivate || o.propagation == msSlave {
		if err := clone.SetMountAttr(linux.MountAttr{Propagation: o.propagation, Recursive: o.below}); err != nil {
			return err
		}
	}
	if o.attributes == 0 {
		return nil
	}
	attr := linux.MountAttr{Set: uint64(o.attributes)}
	if o.attributes&mountAttrAtime != 0 {
		attr.Clear = mountAttrAtime
	}
	if err := clone.SetMountAttr(attr); err != nil {
		return err
	}
	if o.recursiveRO {
		return clone.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly, Recursive: true})
	}
	return nil
}

// cloneOfHost clones what is at a host path: links are followed by the host's rules, a missing directory is made (CRI MNT-2 as peers have
// it). It holds the volume from now on, so it is done last before the launch.
func cloneOfHost(source string, o options) (*linux.FD, error) {
	if !path.IsAbs(source) {
		return nil, errs.New(errs.InvalidArgument, "source %q is no path of the host and was not given otherwise", source)
	}
	at, err := linux.OpenPath(source)
	if errors.Is(err, syscall.ENOENT) {
		if err := os.MkdirAll(source, 0o755); err != nil {
			return nil, fmt.Errorf("make missing volume: %w", err)
		}
		at, err = linux.OpenPath(source)
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	if o.propagation == msSlave || o.propagation == msShared {
		if err := checkPropagation(at, o.propagation); err != nil {
			return nil, err
		}
	}
	return at.CloneMount(o.recursive)
}

// checkPropagation refuses a volume whose mount on the host cannot propagate as asked (CRI MNT-5).
func checkPropagation(at *linux.FD, want uint64) error {
	real, err := os.Readlink(at.Path())
	if err != nil {
		return fmt.Errorf("find mount of %s: %w", at.Name(), err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return fmt.Errorf("find mount of %s: %w", at.Name(), err)
	}
	if len(mounts) == 0 {
		return fmt.Errorf("find mount of %s: none", at.Name())
	}
	longest := slices.MaxFunc(mounts, func(a, b *mountinfo.Info) int { return len(a.Mountpoint) - len(b.Mountpoint) })
	shared, slave := strings.Contains(longest.Optional, "shared:"), strings.Contains(longest.Optional, "master:")
	if want == msShared && !shared {
		return errs.New(errs.InvalidArgument, "path %q is mounted on %q but it is not a shared mount", at.Name(), longest.Mountpoint)
	}
	if want == msSlave && !shared && !slave {
		return errs.New(errs.InvalidArgument, "path %q is mounted on %q but it is not a shared or slave mount", at.Name(), longest.Mountpoint)
	}
	return nil
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

// attach has the program attach a detached mount (a descriptor's number or a slot) at a path of the root, whose place is made if it is
// missing: in the rootfs and in our /dev now, by us alone; below a volume by the program, when the volume is there.
func (r *root) attach(dest string, kind mountKind, mount any, dir bool) error {
	dest = path.Clean(dest)
	place, nested, err := r.place(dest, dir)
	if err != nil {
		return err
	}
	switch {
	case !nested:
		r.Do("find "+dest, launch.Openat2, r.number, place, r.noLinks, launch.OpenHowSize).Save(r.at)
	default:
		r.makePlace(place, dir)
	}
	r.Do("mount "+dest, launch.MoveMount, mount, "", r.at, "", moveMountFEmptyPath|moveMountTEmptyPath)
	r.mounted = append(r.mounted, mounted{place, kind})
	return nil
}

// attachKnown attaches at a place that is known to exist below one of our own mounts.
func (r *root) attachKnown(dest string, mount any) {
	r.Do("find "+dest, launch.Openat2, r.number, dest, r.noLinks, launch.OpenHowSize).Save(r.at)
	r.Do("mount "+dest, launch.MoveMount, mount, "", r.at, "", moveMountFEmptyPath|moveMountTEmptyPath)
	r.mounted = append(r.mounted, mounted{dest, kernel})
}

// place finds where dest is, and makes it if we can. nested says that it is below an attached volume, of which only the program can
// know more.
func (r *root) place(dest string, dir bool) (place string, nested bool, err error) {
	if over := r.over(dest); over != nil {
		return r.placeIn(*over, dest, dir)
	}
	t, err := locate(r.fd, dest)
	if err != nil {
		return "", false, err
	}
	if t.path == "/" {
		return "", false, errs.New(errs.InvalidArgument, "the root itself cannot be mounted on")
	}
	if kernelTree(dest) && t.path != dest {
		return "", false, errs.New(errs.InvalidArgument, "rootfs: %s is a symbolic link: %w", dest, syscall.ELOOP)
	}
	if r.over(t.path) != nil { // a link of the rootfs leads below a volume: the way is known to the kernel only
		return dest, true, nil
	}
	return t.path, false, makeTarget(r.fd, t, dir)
}

func kernelTree(p string) bool { return p == "/proc" || p == "/sys" || p == "/dev" }

// over is the innermost mount that a path is below of (or at).
func (r *root) over(p string) *mounted {
	var best *mounted
	for i, m := range r.mounted {
		if (p == m.path || strings.HasPrefix(p, m.path+"/")) && (best == nil || len(m.path) >= len(best.path)) {
			best = &r.mounted[i]
		}
	}
	return best
}

func (r *root) placeIn(over mounted, dest string, dir bool) (string, bool, error) {
	if dest == over.path { // a second mount at one place
		return dest, false, nil
	}
	if over.kind != device {
		return dest, true, nil
	}
	t, err := locate(r.dev, strings.TrimPrefix(dest, over.path))
	if err != nil {
		return "", false, err
	}
	return over.path + t.path, false, makeTarget(r.dev, t, dir)
}

// makePlace opens a path below a volume as the mount target, making what is missing, component by component, each by the descriptor of the one
// before: whatever the volume's owner changes meanwhile, nothing outside the root is touched (CVE-2021-30465, CVE-2024-45310).
func (r *root) makePlace(dest string, dir bool) {
	found, parent := r.NewLabel(), r.NewSlot()
	r.Do("find "+dest, launch.Openat2, r.number, dest, r.inRoot, launch.OpenHowSize).Save(r.at).
		Retry(maxTries, syscall.EAGAIN).Ignore(syscall.ENOENT).JumpIfPositive(found)
	parts := components(dest)
	r.Let("begin at the root", parent, r.number)
	for i, name := range parts[:len(parts)-1] {
		prefix := "/" + strings.Join(parts[:i+1], "/")
		r.Do("make "+prefix, launch.Mkdirat, parent, name, 0o755).Ignore(syscall.EEXIST)
		r.Do("go to "+prefix, launch.Openat2, r.number, prefix, r.inRootDir, launch.OpenHowSize).Save(parent).Retry(maxTries, syscall.EAGAIN)
	}
	last := parts[len(parts)-1]
	if dir {
		r.Do("make "+dest, launch.Mkdirat, parent, last, 0o755).Ignore(syscall.EEXIST)
	} else {
		r.Do("make "+dest, launch.Mknodat, parent, last, linux.TypeRegular|0o644, 0).Ignore(syscall.EEXIST)
	}
	r.Do("find "+dest, launch.Openat2, r.number, dest, r.inRoot, launch.OpenHowSize).Save(r.at).Retry(maxTries, syscall.EAGAIN)
	r.Place(found)
}

// workingDirectory makes the process's directory if it is missing.
func (r *root) workingDirectory(dir string) error {
	if !path.IsAbs(dir) {
		return errs.New(errs.InvalidArgument, "process.cwd: %q is not absolute", dir)
	}
	clean := path.Clean(dir)
	if clean == "/" {
		return nil
	}
	if over := r.over(clean); over != nil {
		if over.kind == volume && over.path != clean {
			r.makePlace(clean, true)
		}
		return nil
	}
	t, err := locate(r.fd, clean)
	if err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	if over := r.over(t.path); over != nil {
		if over.kind == volume && over.path != t.path {
			r.makePlace(clean, true)
		}
		return nil
	}
	if t.path == "/" {
		return nil
	}
	if err := makeTarget(r.fd, t, true); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	return nil
}

// seal is the last that is done to the rootfs before the launch.
func (r *root) seal(c *engine.Container) error {
	if !c.Rootfs.ReadOnly && !(c.Spec.Root != nil && c.Spec.Root.Readonly) {
		return nil
	}
	return r.fd.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly})
}
