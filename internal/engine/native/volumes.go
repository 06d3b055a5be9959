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

	"fermata/internal/errs"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

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
		return errs.Blame(err, "mount source", m.Source)
	}
	number := r.own(clone)
	if label := r.c.Spec.Linux.MountLabel; label != "" && r.c.Relabel[m.Destination] { // before it is read-only
		if err := clone.LabelTree(label); err != nil {
			return err
		}
	}
	if mapped := spec.MountUsers(m); mapped != nil && r.c.Sources[m.Destination] == nil {
		if err := r.renumber(clone, mapped, m.Source); err != nil {
			return err
		}
	}
	if err := o.apply(clone); err != nil {
		return err
	}
	st, err := clone.Stat()
	if err != nil {
		return err
	}
	return r.attach(m.Destination, volume, number, st.IsDir())
}

// renumber gives a volume a numbering, mostly the pod's. What is mounted below it keeps its own: that may be of a filesystem that cannot.
func (r *root) renumber(clone *linux.FD, as *spec.Users, source string) error {
	if r.users != nil && *as == *r.users.Users {
		return r.users.renumber(clone, "volume "+source)
	}
	ns, err := r.h.newUserNamespace(as)
	if err != nil {
		return err
	}
	defer ns.Close()
	return (&users{as, ns}).renumber(clone, "volume "+source)
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
			return nil, fmt.Errorf("host_path: make missing volume: %w", linux.Refused(err))
		}
		at, err = linux.OpenPath(source)
	}
	if err != nil {
		return nil, fmt.Errorf("host_path: %w", linux.Refused(err))
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
