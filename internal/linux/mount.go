package linux

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mount attributes of fsmount(2) and mount_setattr(2).
const (
	MountReadOnly = unix.MOUNT_ATTR_RDONLY
	MountNoSuid   = unix.MOUNT_ATTR_NOSUID
	MountNoDev    = unix.MOUNT_ATTR_NODEV
	MountNoExec   = unix.MOUNT_ATTR_NOEXEC
)

// Option is one option of a filesystem being made: a flag when Value is empty and FD nil.
type Option struct {
	Key, Value string
	// FD gives the value as a descriptor (overlay layers, Linux 6.13); nil for a string. It stays the caller's.
	FD *FD
}

// NewMount makes a filesystem and returns it as a detached mount, visible nowhere and gone when the last descriptor closes: fsopen,
// fsconfig, fsmount, Linux 5.2. The kernel's own words (the context's log) are part of the error.
func NewMount(fstype string, attrs int, options ...Option) (*FD, error) {
	fs, err := retryFD("fsopen", fstype, func() (int, error) { return unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC) })
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	for _, o := range options {
		if err := fs.configure(o); err != nil {
			return nil, fmt.Errorf("configure %s %s=%s: %w%s", fstype, o.Key, o.value(), err, fs.complaints())
		}
	}
	if err := retry(func() error { return unix.FsconfigCreate(fs.Int()) }); err != nil {
		return nil, fmt.Errorf("create %s: %w%s", fstype, err, fs.complaints())
	}
	m, err := retryFD("fsmount", fstype, func() (int, error) { return unix.Fsmount(fs.Int(), unix.FSMOUNT_CLOEXEC, attrs) })
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, fs.complaints())
	}
	return m, nil
}

func (o Option) value() string {
	if o.FD != nil {
		return o.FD.Name()
	}
	return o.Value
}

func (f *FD) configure(o Option) error {
	switch {
	case o.FD != nil:
		key, err := unix.BytePtrFromString(o.Key)
		if err != nil {
			return err
		}
		return retry(func() error {
			_, _, e := unix.Syscall6(unix.SYS_FSCONFIG, uintptr(f.Int()), unix.FSCONFIG_SET_FD, uintptr(unsafe.Pointer(key)), 0, uintptr(o.FD.Int()), 0)
			if e != 0 {
				return e
			}
			return nil
		})
	case o.Value == "":
		return retry(func() error { return unix.FsconfigSetFlag(f.Int(), o.Key) })
	default:
		return retry(func() error { return unix.FsconfigSetString(f.Int(), o.Key, o.Value) })
	}
}

// complaints reads what the kernel logged about a filesystem context, "" if nothing. Each read gives one message "e text".
func (f *FD) complaints() string {
	var said []string
	buf := make([]byte, 1024)
	for range 16 {
		n, err := unix.Read(f.Int(), buf)
		if n <= 2 || err != nil {
			break
		}
		said = append(said, strings.TrimSpace(string(buf[2:n])))
	}
	if said == nil {
		return ""
	}
	return " (" + strings.Join(said, "; ") + ")"
}

// CloneMount returns a detached copy of what is mounted at the descriptor f (which may be O_PATH), as open_tree(2) with OPEN_TREE_CLONE makes it.
func (f *FD) CloneMount(recursive bool) (*FD, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return retryFD("clone mount", f.Name(), func() (int, error) { return unix.OpenTree(f.Int(), "", flags) })
}

// MountAttr is a change to a mount: attributes set and cleared, and its propagation (unix.MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE, or 0 to leave it).
type MountAttr struct {
	Set, Clear  uint64
	Propagation uint64
	Recursive   bool
	// Users renumbers the owners of the mount's files as this user namespace does (an idmapped mount, Linux 5.12): what belongs to 5 on disk belongs
	// to whom 5 inside is outside. nil leaves them. Only a detached mount can be given it, once; EINVAL says that its filesystem cannot.
	Users *FD
}

// SetMountAttr changes the mount whose root f is: mount_setattr(2), Linux 5.12.
func (f *FD) SetMountAttr(a MountAttr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if a.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: a.Set, Attr_clr: a.Clear, Propagation: a.Propagation}
	if a.Users != nil {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(a.Users.Int())
	}
	if err := retry(func() error { return unix.MountSetattr(f.Int(), "", flags, &attr) }); err != nil {
		return fmt.Errorf("set attributes of mount %s: %w", f.Name(), err)
	}
	return nil
}

// MoveMountTo attaches the detached mount f to the place that target is open on: move_mount(2).
func (f *FD) MoveMountTo(target *FD) error {
	err := retry(func() error {
		return unix.MoveMount(f.Int(), "", target.Int(), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	})
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", f.Name(), target.Name(), err)
	}
	return nil
}

// BindTo makes the file at path another name of the open file f, which a path of /proc names only as long as this process lives: mount(2), MS_BIND.
func (f *FD) BindTo(path string) error {
	err := retry(func() error { return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Int()), path, "", unix.MS_BIND, "") })
	if err != nil {
		return fmt.Errorf("bind %s to %s: %w", f.Name(), path, err)
	}
	return nil
}

// IsNamespaceFile says whether a path names a namespace (nsfs, Linux 3.19): after a reboot the file is there and is none any more.
func IsNamespaceFile(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Unmount detaches the mount at a path of fermata's own, lazily. Nothing mounted there is no error.
func Unmount(path string) error {
	err := retry(func() error { return unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
