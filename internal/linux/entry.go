package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An entry is a name directly in the directory f. None of the calls here follows a symbolic link; a name with a slash, "." and ".." are refused
// (EINVAL), so that nothing outside the directory can be meant. f may be O_PATH.

// EntryStat is what fermata asks of an inode, in kernel form.
type EntryStat struct {
	// Mode has the type bits (S_IFMT) and the permission bits with setuid, setgid and sticky.
	Mode     uint32
	UID, GID uint32
	Size     int64
	// Blocks are 512 bytes each.
	Blocks  int64
	Device  uint64 // the filesystem's
	Inode   uint64
	Links   uint64
	Special uint64 // of a device node
	ModTime time.Time
}

// Type bits of [EntryStat.Mode].
const (
	TypeMask      = unix.S_IFMT
	TypeRegular   = unix.S_IFREG
	TypeDirectory = unix.S_IFDIR
	TypeSymlink   = unix.S_IFLNK
	TypeCharacter = unix.S_IFCHR
	TypeBlock     = unix.S_IFBLK
	TypeFIFO      = unix.S_IFIFO
)

// IsDir says whether it is a directory.
func (s EntryStat) IsDir() bool { return s.Mode&TypeMask == TypeDirectory }

// IsSymlink says whether it is a symbolic link.
func (s EntryStat) IsSymlink() bool { return s.Mode&TypeMask == TypeSymlink }

// IsWhiteout says whether overlayfs takes it for "not there": a character device 0/0.
func (s EntryStat) IsWhiteout() bool { return s.Mode&TypeMask == TypeCharacter && s.Special == 0 }

func entryStat(st *unix.Stat_t) EntryStat {
	return EntryStat{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Blocks: st.Blocks, Device: uint64(st.Dev), Inode: st.Ino,
		Links: uint64(st.Nlink), Special: uint64(st.Rdev), ModTime: time.Unix(st.Mtim.Unix())}
}

func (f *FD) entry(op, name string, call func() error) error {
	err := error(unix.EINVAL)
	if name != "" && name != "." && name != ".." && !strings.Contains(name, "/") {
		err = retry(call)
	}
	if err != nil {
		return fmt.Errorf("%s %s/%s: %w", op, f.Name(), name, err)
	}
	return nil
}

// Stat describes the open file.
func (f *FD) Stat() (EntryStat, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(f.Int(), "", &st, unix.AT_EMPTY_PATH) }); err != nil {
		return EntryStat{}, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return entryStat(&st), nil
}

// StatEntry describes an entry.
func (f *FD) StatEntry(name string) (EntryStat, error) {
	var st unix.Stat_t
	err := f.entry("stat", name, func() error { return unix.Fstatat(f.Int(), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return entryStat(&st), err
}

// OpenEntry opens an entry that is no symbolic link (ELOOP, or the link itself with O_PATH).
func (f *FD) OpenEntry(name string, flags int) (*FD, error) {
	var fd int
	err := f.entry("open", name, func() (err error) {
		fd, err = unix.Openat(f.Int(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return NewFD(fd, f.Name()+"/"+name), nil
}

// CreateEntry makes a new regular file for writing (EEXIST if the name is taken).
func (f *FD) CreateEntry(name string, mode uint32) (*FD, error) {
	var fd int
	err := f.entry("create", name, func() (err error) {
		fd, err = unix.Openat(f.Int(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return NewFD(fd, name), nil
}

// MakeDirEntry makes a directory; the umask applies.
func (f *FD) MakeDirEntry(name string, mode uint32) error {
	return f.entry("make directory", name, func() error { return unix.Mkdirat(f.Int(), name, mode) })
}

// MakeNodeEntry makes a device node or FIFO: mode has the type bits. The umask applies.
func (f *FD) MakeNodeEntry(name string, mode, major, minor uint32) error {
	return f.entry("make node", name, func() error { return unix.Mknodat(f.Int(), name, mode, int(unix.Mkdev(major, minor))) })
}

// SymlinkEntry makes a symbolic link.
func (f *FD) SymlinkEntry(target, name string) error {
	return f.entry("make symbolic link", name, func() error { return unix.Symlinkat(target, f.Int(), name) })
}

// ReadLinkEntry reads a symbolic link.
func (f *FD) ReadLinkEntry(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n := 0
	err := f.entry("read symbolic link", name, func() (err error) { n, err = unix.Readlinkat(f.Int(), name, buf); return err })
	return string(buf[:max(n, 0)]), err
}

// LinkEntry gives the entry oldName of the directory old (itself, if a symbolic link) a second name in f.
func (f *FD) LinkEntry(old *FD, oldName, name string) error {
	return f.entry("link", name, func() error {
		if oldName == "" || oldName == "." || oldName == ".." || strings.Contains(oldName, "/") {
			return unix.EINVAL
		}
		return unix.Linkat(old.Int(), oldName, f.Int(), name, 0)
	})
}

// RemoveEntry removes an entry that is no directory.
func (f *FD) RemoveEntry(name string) error {
	return f.entry("remove", name, func() error { return unix.Unlinkat(f.Int(), name, 0) })
}

// RemoveTreeEntry removes an entry with everything below it. Nothing there is no error. It holds one descriptor a level.
func (f *FD) RemoveTreeEntry(name string) error {
	err := f.entry("remove", name, func() error { return unix.Unlinkat(f.Int(), name, 0) })
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM): // EPERM: what POSIX says of directories
		return err
	}
	dir, err := f.OpenEntry(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.RemoveContents(); err != nil {
		return err
	}
	return f.entry("remove directory", name, func() error { return unix.Unlinkat(f.Int(), name, unix.AT_REMOVEDIR) })
}

// RemoveContents empties the directory f, which must be open for reading.
func (f *FD) RemoveContents() error {
	names, err := f.EntryNames()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := f.RemoveTreeEntry(n); err != nil {
			return err
		}
	}
	return nil
}

// EntryNames lists a directory that is open for reading, from its start, in no order, without "." and "..".
func (f *FD) EntryNames() ([]string, error) {
	again, err := f.Dup()
	if err != nil {
		return nil, err
	}
	dir := again.File()
	defer dir.Close()
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("list %s: %w", f.Name(), err)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", f.Name(), err)
	}
	return names, nil
}

// ChownEntry sets an entry's owner. It clears setuid, setgid and file capabilities.
func (f *FD) ChownEntry(name string, uid, gid uint32) error {
	return f.entry("change owner of", name, func() error {
		return unix.Fchownat(f.Int(), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
	})
}

// ChmodEntry sets the permission bits of an entry that is known to be no symbolic link: fchmodat(2) itself would follow one, so it goes by a descriptor
// and /proc (fchmodat2 came with Linux 6.6 only).
func (f *FD) ChmodEntry(name string, mode uint32) error {
	e, err := f.OpenEntry(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer e.Close()
	st, err := e.Stat()
	if err != nil {
		return err
	}
	if st.IsSymlink() {
		return fmt.Errorf("change mode of %s: %w", e.Name(), unix.ELOOP)
	}
	if err := retry(func() error { return unix.Chmod(e.Path(), mode) }); err != nil {
		return fmt.Errorf("change mode of %s: %w", e.Name(), err)
	}
	return nil
}

// SetTimesEntry sets an entry's access and modification times.
func (f *FD) SetTimesEntry(name string, at time.Time) error {
	ts := timespecs(at)
	return f.entry("set times of", name, func() error {
		return unix.UtimesNanoAt(f.Int(), name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
	})
}

func timespecs(at time.Time) [2]unix.Timespec {
	ts := unix.Timespec{Sec: at.Unix(), Nsec: int64(at.Nanosecond())}
	return [2]unix.Timespec{ts, ts}
}

// Chown sets the owner of an open file, O_PATH or not.
func (f *FD) Chown(uid, gid uint32) error {
	if err := retry(func() error { return unix.Fchownat(f.Int(), "", int(uid), int(gid), unix.AT_EMPTY_PATH) }); err != nil {
		return fmt.Errorf("change owner of %s: %w", f.Name(), err)
	}
	return nil
}

// Chmod sets the permission bits, in kernel form, of an open file (not O_PATH).
func (f *FD) Chmod(mode uint32) error {
	if err := retry(func() error { return unix.Fchmod(f.Int(), mode) }); err != nil {
		return fmt.Errorf("change mode of %s: %w", f.Name(), err)
	}
	return nil
}

// SetTimes sets access and modification times of an open file (not O_PATH).
func (f *FD) SetTimes(at time.Time) error {
	ts := timespecs(at)
	err := retry(func() error {
		// futimens(3): utimensat(2) with no path; x/sys has no form for it
		_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(f.Int()), 0, uintptr(unsafe.Pointer(&ts[0])), 0, 0, 0)
		if e != 0 {
			return e
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("set times of %s: %w", f.Name(), err)
	}
	return nil
}

// Truncate sets the length of a file open for writing.
func (f *FD) Truncate(size int64) error {
	if err := retry(func() error { return unix.Ftruncate(f.Int(), size) }); err != nil {
		return fmt.Errorf("set length of %s: %w", f.Name(), err)
	}
	return nil
}

// Skip moves the place where the next write goes forward by n bytes: a hole, if nothing is there.
func (f *FD) Skip(n int64) error {
	if _, err := unix.Seek(f.Int(), n, unix.SEEK_CUR); err != nil {
		return fmt.Errorf("seek in %s: %w", f.Name(), err)
	}
	return nil
}

// SetXattr sets an extended attribute. It reaches any kind of inode, symbolic links included, also through an O_PATH descriptor.
func (f *FD) SetXattr(name, value string) error {
	if err := retry(func() error { return unix.Setxattr(f.Path(), name, []byte(value), 0) }); err != nil {
		return fmt.Errorf("set attribute %s of %s: %w", name, f.Name(), err)
	}
	return nil
}

// Xattr reads an extended attribute; "" if it is not there or the filesystem has none. See [FD.SetXattr] for what f may be.
func (f *FD) Xattr(name string) (string, error) {
	buf := make([]byte, 256)
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.Getxattr(f.Path(), name, buf); return err })
		switch {
		case err == nil:
			return string(buf[:n]), nil
		case errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP):
			return "", nil
		case errors.Is(err, unix.ERANGE) && len(buf) < 1<<16: // XATTR_SIZE_MAX
			buf = make([]byte, 1<<16)
		default:
			return "", fmt.Errorf("read attribute %s of %s: %w", name, f.Name(), err)
		}
	}
}

// Xattrs lists the names of the extended attributes; none if the filesystem has none.
func (f *FD) Xattrs() ([]string, error) {
	buf := make([]byte, 1<<16) // XATTR_LIST_MAX
	var n int
	err := retry(func() (err error) { n, err = unix.Listxattr(f.Path(), buf); return err })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes of %s: %w", f.Name(), err)
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), nil
}

// IsUnsupported says whether an error is a filesystem's "I do not do that".
func IsUnsupported(err error) bool { return errors.Is(err, unix.ENOTSUP) }

// SyncFilesystem writes everything of the filesystem that f is on to the disk and waits: syncfs(2). Since Linux 5.8 it reports write errors.
func (f *FD) SyncFilesystem() error {
	if err := retry(func() error { return unix.Syncfs(f.Int()) }); err != nil {
		return fmt.Errorf("sync filesystem of %s: %w", f.Name(), err)
	}
	return nil
}

// Sync writes a file, or a directory's entries, to the disk and waits.
func (f *FD) Sync() error {
	if err := retry(func() error { return unix.Fsync(f.Int()) }); err != nil {
		return fmt.Errorf("sync %s: %w", f.Name(), err)
	}
	return nil
}

// StartWriteback asks the kernel to begin writing n bytes of a file at an offset to the disk, and does not wait: sync_file_range(2). It is a hint.
func (f *FD) StartWriteback(offset, n int64) {
	_ = unix.SyncFileRange(f.Int(), offset, n, unix.SYNC_FILE_RANGE_WRITE)
}

// RenameNoReplace renames only if the new name is free (EEXIST otherwise), renameat2(2) RENAME_NOREPLACE.
func RenameNoReplace(from, to string) error {
	err := retry(func() error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	})
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
