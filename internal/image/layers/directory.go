package layers

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// oPath is not in package syscall for every architecture.
const oPath = 0x200000

const readDir = syscall.O_RDONLY | syscall.O_DIRECTORY

// isSymlinkUserXattr: the kernel gives user attributes to files and directories only (EPERM).
func isSymlinkUserXattr(err error, name string, h *tar.Header) bool {
	return errors.Is(err, syscall.EPERM) && strings.HasPrefix(name, "user.") && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir
}

// xattrError says whose fault it is: a value the kernel does not take is the image's.
func xattrError(err error, name string, h *tar.Header) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ERANGE) || errors.Is(err, syscall.E2BIG) || errors.Is(err, syscall.EPERM) {
		return errs.New(errs.InvalidArgument, "unpack layer: attribute %q of %q: %w", clip(name), clip(h.Name), err)
	}
	return fmt.Errorf("unpack layer: %w", err)
}

// openDir returns the directory of a clean path, which stays the unpacker's. With create, what is missing of it is made and counted as implied.
func (u *unpacker) openDir(p string, create bool) (*linux.FD, error) {
	if p == "" {
		return u.root, nil
	}
	if u.parent != nil && u.parentPath == p && !u.parentStale {
		return u.parent, nil
	}
	if create {
		if err := u.makeParents(p); err != nil {
			return nil, err
		}
	}
	dir, err := u.openPath(p)
	if err != nil {
		return nil, err
	}
	u.parent.Close()
	u.parent, u.parentPath, u.parentStale = dir, p, false
	return dir, nil
}

// openTarget opens the directory of a hard link's target, to be closed by the caller, making nothing.
func (u *unpacker) openTarget(p string) (*linux.FD, error) {
	if p == "" {
		return u.root.Dup()
	}
	return u.openPath(p)
}

// openPath opens a directory by a clean path: alone no component may be a link; onto a base links stay inside the root.
func (u *unpacker) openPath(p string) (*linux.FD, error) {
	if u.onto {
		return u.root.OpenInRoot(p, readDir, 0)
	}
	return u.root.OpenNoLinks(p, readDir, 0)
}

// makeParents makes what is missing of a path. Alone, what this layer has not brought is missing, and a link in the way means that the layer needs its base.
func (u *unpacker) makeParents(p string) error {
	if u.onto {
		return u.makeParentsOnto(p)
	}
	if u.dirs[p] != nil {
		return nil
	}
	parentPath, base := split(p)
	if err := u.makeParents(parentPath); err != nil {
		return err
	}
	parent, err := u.openPathOrRoot(parentPath)
	if err != nil {
		return err
	}
	defer parent.Close()
	opaque := false
	err = parent.MakeDirEntry(base, 0o755)
	if errors.Is(err, syscall.EEXIST) {
		st, err := parent.StatEntry(base)
		switch {
		case err != nil:
			return err
		case st.IsSymlink():
			return ErrNeedsBase
		case !st.IsWhiteout():
			return refuse("%q is not a directory and has something in it", clip(p))
		}
		if err := parent.RemoveEntry(base); err != nil {
			return err
		}
		u.result.Inodes--
		opaque = true
		if err := parent.MakeDirEntry(base, 0o755); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	u.know(p)
	u.dirs[p].anew, u.dirs[p].opaque = opaque, opaque
	return u.finishImplied(parent, base, opaque)
}

func (u *unpacker) openPathOrRoot(p string) (*linux.FD, error) {
	if p == "" {
		return u.root.Dup()
	}
	return u.openPath(p)
}

// finishImplied gives a directory that nobody listed its plain look, whatever the umask. A setgid parent hands on its group and bit, as the kernel has it.
func (u *unpacker) finishImplied(parent *linux.FD, base string, opaque bool) error {
	dir, err := parent.OpenEntry(base, readDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if opaque {
		if err := dir.SetXattr(xattrOpaque, "y"); err != nil {
			return err
		}
	}
	st, err := dir.Stat()
	if err != nil {
		return err
	}
	return dir.Chmod(0o755 | st.Mode&setgid)
}

const setgid = 0o2000

// placeDir makes or updates a listed directory.
func (u *unpacker) placeDir(parent *linux.FD, name string, h *tar.Header) error {
	_, base := split(name)
	opaque := false
	err := parent.MakeDirEntry(base, 0o700)
	if errors.Is(err, syscall.EEXIST) {
		st, err := parent.StatEntry(base)
		if err != nil {
			return err
		}
		if !st.IsDir() {
			// A directory in place of something else does not merge with what lies below: that was hidden already.
			opaque = !u.onto
			u.forget(name)
			if err := parent.RemoveEntry(base); err != nil {
				return err
			}
			if err := parent.MakeDirEntry(base, 0o700); err != nil {
				return err
			}
		}
	} else if err != nil {
		return err
	}
	if u.dirs[name] == nil {
		u.know(name)
	}
	dir, err := parent.OpenEntry(base, readDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if opaque {
		u.dirs[name].opaque = true
		if err := dir.SetXattr(xattrOpaque, "y"); err != nil {
			return err
		}
	}
	return u.describeDir(dir, name, h)
}

// placeRoot takes the archive's entry for the root itself.
func (u *unpacker) placeRoot(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return refuse("the root is not a directory but of type %q", h.Typeflag)
	}
	if u.dirs[""] == nil {
		u.dirs[""] = &directory{}
	}
	dir, err := u.root.OpenBeneath(".", readDir, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return u.describeDir(dir, "", h)
}

// describeDir sets what can be set at once and keeps the rest for [unpacker.finishDirs].
func (u *unpacker) describeDir(dir *linux.FD, name string, h *tar.Header) error {
	if err := dir.Chown(uint32(h.Uid), uint32(h.Gid)); err != nil {
		return err
	}
	if err := dir.Chmod(uint32(h.Mode) & 0o7777); err != nil {
		return err
	}
	acl, err := setXattrs(dir, h)
	if err != nil {
		return err
	}
	d := u.dirs[name]
	d.listed, d.at, d.acl = true, h.ModTime, acl
	return nil
}

// finishDirs sets times and default ACLs of listed directories, once nothing comes into them any more.
func (u *unpacker) finishDirs() error {
	for p, d := range u.dirs {
		if !d.listed {
			continue
		}
		dir, err := u.openForFinish(p)
		if u.onto && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)) {
			continue // replaced under another of its names
		}
		if err != nil {
			return err
		}
		if d.acl != "" {
			err = dir.SetXattr(defaultACL, d.acl)
			if linux.IsUnsupported(err) {
				err = nil
			}
		}
		err = errors.Join(err, dir.SetTimes(d.at), dir.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) openForFinish(p string) (*linux.FD, error) {
	parentPath, base := split(p)
	if base == "" {
		return u.root.OpenBeneath(".", readDir, 0)
	}
	parent, err := u.openPathOrRoot(parentPath)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	return parent.OpenEntry(base, readDir)
}
