package linux

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// How a path below somebody else's directory may be resolved, openat2(2), Linux 5.6.
const (
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	inRoot  = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
)

// Open opens a path of fermata's own by the host's rules. Flags are unix.O_* (see package os for the portable ones); O_CLOEXEC is added.
func Open(path string, flags int, mode os.FileMode) (*FD, error) {
	return retryFD("open", path, func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, uint32(mode.Perm())) })
}

// OpenPath opens a path as a mere location (O_PATH).
func OpenPath(path string) (*FD, error) { return Open(path, unix.O_PATH, 0) }

// OpenDir opens a directory as a mere location (O_PATH).
func OpenDir(path string) (*FD, error) { return Open(path, unix.O_PATH|unix.O_DIRECTORY, 0) }

// OpenBeneath opens a path below the directory f; "..", absolute paths and links that lead out of it fail with EXDEV, magic links with ELOOP.
func (f *FD) OpenBeneath(path string, flags int, mode os.FileMode) (*FD, error) {
	return f.openat2(path, flags, mode, beneath)
}

// OpenInRoot opens a path as a process would whose root is f: links and ".." stay inside. Magic links (/proc/*/fd) fail with ELOOP.
func (f *FD) OpenInRoot(path string, flags int, mode os.FileMode) (*FD, error) {
	return f.openat2(path, flags, mode, inRoot)
}

// OpenNoLinks is OpenInRoot for paths in which no component may be a symbolic link (ELOOP).
func (f *FD) OpenNoLinks(path string, flags int, mode os.FileMode) (*FD, error) {
	return f.openat2(path, flags, mode, inRoot|unix.RESOLVE_NO_SYMLINKS)
}

func (f *FD) openat2(path string, flags int, mode os.FileMode, resolve uint64) (*FD, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(unixMode(mode))
	}
	name := f.Name() + "/" + path
	// EAGAIN: something was renamed or mounted during the walk; the kernel asks to try again (openat2(2)). Bounded, as an
	// attacker may keep renaming.
	for tries := 0; ; tries++ {
		fd, err := retryFD("open", name, func() (int, error) { return unix.Openat2(f.Int(), path, &how) })
		if err == nil || !errors.Is(err, unix.EAGAIN) || tries == 128 {
			return fd, err
		}
	}
}

// unixMode is the kernel's form of permission bits, with setuid, setgid and sticky, which os.FileMode keeps elsewhere.
func unixMode(m os.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&os.ModeSetuid != 0 {
		bits |= unix.S_ISUID
	}
	if m&os.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	if m&os.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	return bits
}

// Location is the path by which an open file is reached in this process's mount namespace: where it was opened, or was moved to since.
func (f *FD) Location() (string, error) {
	path, err := os.Readlink(f.Path())
	if err != nil {
		return "", fmt.Errorf("find the path of %s: %w", f.Name(), err)
	}
	return path, nil
}

// Mkdirat makes one directory directly below f. The name must be a single component.
func (f *FD) Mkdirat(name string, mode os.FileMode) error {
	if err := retry(func() error { return unix.Mkdirat(f.Int(), name, unixMode(mode)) }); err != nil {
		return fmt.Errorf("make directory %s/%s: %w", f.Name(), name, err)
	}
	return nil
}

// ReadAll reads a regular file from where the descriptor stands, at most limit bytes; a longer file is an error (EFBIG).
// The descriptor stays owned by the caller.
func (f *FD) ReadAll(limit int) ([]byte, error) {
	buf := make([]byte, 0, min(limit+1, 4096))
	for len(buf) <= limit {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := f.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("read %s: over %d bytes: %w", f.Name(), limit, unix.EFBIG)
}

// Read reads once; io.EOF at the end.
func (f *FD) Read(p []byte) (n int, err error) {
	err = retry(func() (err error) { n, err = unix.Read(f.Int(), p); return err })
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write writes all of p, in as many calls as it takes.
func (f *FD) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		var n int
		err := retry(func() (err error) { n, err = unix.Write(f.Int(), p[done:]); return err })
		if err != nil {
			return done, fmt.Errorf("write %s: %w", f.Name(), err)
		}
		done += n
	}
	return done, nil
}

var (
	_ io.Reader = (*FD)(nil)
	_ io.Writer = (*FD)(nil)
)
