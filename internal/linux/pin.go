package linux

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountPins makes dir a filesystem for pins: a tmpfs that is unbindable, so that no recursive bind mount (a hostPath "/") carries the pins into a pod.
// One that is there stays. The directory must exist.
func MountPins(dir string) error {
	at, err := OpenDir(dir)
	if err != nil {
		return err
	}
	defer at.Close()
	if is, err := at.isPins(); is || err != nil {
		return err
	}
	fs, err := NewMount("tmpfs", MountNoSuid|MountNoDev|MountNoExec, Option{Key: "mode", Value: "0700"}, Option{Key: "source", Value: "fermata-pins"})
	if err != nil {
		return err
	}
	defer fs.Close()
	if err := fs.SetMountAttr(MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return err
	}
	if err := fs.MoveMountTo(at); err != nil {
		return err
	}
	// Only now: below a shared mount, what is attached becomes shared. Unbindable also says that it is private.
	return fs.SetMountAttr(MountAttr{Propagation: unix.MS_UNBINDABLE})
}

// isPins reports whether an open directory is the root of a mount of its own.
func (f *FD) isPins() (bool, error) {
	var st unix.Statx_t
	if err := retry(func() error { return unix.Statx(f.Int(), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st) }); err != nil {
		return false, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// UnmountPins takes a filesystem of pins away, with all that is pinned there.
func UnmountPins(dir string) error { return Unmount(dir) }

// Pin mounts a pidfd at a path (a file made for it): whoever opens that has a pidfd of the same process, and once the process is reaped its exit
// ([FD.PidfdExit]), though nobody kept a descriptor meanwhile. Linux 6.15.
func (f *FD) Pin(path string) error {
	clone, err := f.CloneMount(false)
	if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	defer clone.Close()
	file, err := Open(path, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	defer file.Close()
	if err := clone.MoveMountTo(file); err != nil {
		os.Remove(path)
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// Unpin takes a pin away. None there is fine.
func Unpin(path string) error {
	if err := Unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// OpenPinned opens a pin: a pidfd, also of a process that was reaped.
func OpenPinned(path string) (*FD, error) {
	return Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// PidfdExit returns how the process of a pidfd ended, child or not: PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15. known is false while it runs, and
// until whoever is its parent has reaped it (the pidfd then polls [PollHup]).
func (f *FD) PidfdExit() (exit Exit, known bool, err error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err = retry(func() error { return unix.IoctlPidfdInfo(f.Int(), &info) })
	if errors.Is(err, unix.ESRCH) { // ended, not reaped or before this kernel kept it
		return Exit{}, false, nil
	}
	if err != nil {
		return Exit{}, false, fmt.Errorf("ask for the exit of %s: %w", f.Name(), err)
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return Exit{}, false, nil
	}
	return exitOf(unix.WaitStatus(info.Exit_code)), true, nil
}
