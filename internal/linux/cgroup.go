package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Magic numbers of the control group file systems, statfs(2).
const (
	CgroupMagic  = unix.CGROUP_SUPER_MAGIC
	Cgroup2Magic = unix.CGROUP2_SUPER_MAGIC
)

// FilesystemMagic returns the type of the file system f is on, as a *_SUPER_MAGIC of statfs(2).
func (f *FD) FilesystemMagic() (int64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(f.Int(), &st) }); err != nil {
		return 0, fmt.Errorf("stat file system of %s: %w", f.Name(), err)
	}
	return int64(st.Type), nil
}

// OpenSameMount opens a path below the directory f that leads over neither links nor mount points: whatever somebody mounted over
// a file of a kernel file system, it is not what is opened (EXDEV).
func (f *FD) OpenSameMount(path string, flags int) (*FD, error) {
	return f.openat2(path, flags, 0, beneath|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// MkdirPath makes the last directory of a path below f. The components before it are walked by the host's rules: only for file
// systems that have no symbolic links, as cgroupfs.
func (f *FD) MkdirPath(path string, mode os.FileMode) error {
	if err := retry(func() error { return unix.Mkdirat(f.Int(), path, unixMode(mode)) }); err != nil {
		return fmt.Errorf("make directory %s/%s: %w", f.Name(), path, err)
	}
	return nil
}

// RmdirPath removes the empty directory at a path below f; see [FD.MkdirPath].
func (f *FD) RmdirPath(path string) error {
	if err := retry(func() error { return unix.Unlinkat(f.Int(), path, unix.AT_REMOVEDIR) }); err != nil {
		return fmt.Errorf("remove directory %s/%s: %w", f.Name(), path, err)
	}
	return nil
}

// WriteOnce writes p in exactly one call, as files of the kernel want it; a short write is an error (EIO).
func (f *FD) WriteOnce(p []byte) error {
	var n int
	err := retry(func() (err error) { n, err = unix.Write(f.Int(), p); return err })
	if err == nil && n != len(p) {
		err = unix.EIO
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return nil
}

// Subdirectories lists the directories directly in the directory at a path below f (see [FD.OpenSameMount]), by name, in no order.
func (f *FD) Subdirectories(path string) ([]string, error) {
	d, err := f.OpenSameMount(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	dir := d.File()
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s/%s: %w", f.Name(), path, err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// AwaitNotification waits until a file of the kernel that announces changes by POLLPRI (cgroup.events, PSI, mounts) has changed since it
// was last read, or ctx ends.
func (f *FD) AwaitNotification(ctx context.Context) error {
	return await(ctx, unix.POLLPRI, f)
}

// AwaitReadable waits until f is readable (a pidfd: its process has ended), or ctx ends.
func (f *FD) AwaitReadable(ctx context.Context) error {
	return await(ctx, unix.POLLIN, f)
}

// await polls one descriptor until one of the events, or the end of ctx, which reaches poll(2) by an eventfd.
func await(ctx context.Context, events int16, f *FD) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("wait for %s: %w", f.Name(), err)
	}
	fds := []unix.PollFd{{Fd: int32(f.Int()), Events: events}}
	if ctx.Done() != nil {
		wake, err := retryFD("make", "eventfd", func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) })
		if err != nil {
			return err
		}
		defer wake.Close()
		woken := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(woken)
			wake.Write(binary.NativeEndian.AppendUint64(nil, 1))
		})
		defer func() {
			if !stop() {
				<-woken // it writes to a descriptor that is about to be closed
			}
		}()
		fds = append(fds, unix.PollFd{Fd: int32(wake.Int()), Events: unix.POLLIN})
	}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for %s: %w", f.Name(), err)
		case fds[0].Revents != 0: // POLLERR comes along with POLLPRI on kernfs files
			return nil
		case context.Cause(ctx) != nil:
			return fmt.Errorf("wait for %s: %w", f.Name(), context.Cause(ctx))
		}
	}
}

// Pread reads once from an offset, leaving the file position alone; 0 bytes is the end.
func (f *FD) Pread(p []byte, off int64) (n int, err error) {
	if err = retry(func() (err error) { n, err = unix.Pread(f.Int(), p, off); return err }); err != nil {
		return 0, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return n, nil
}
