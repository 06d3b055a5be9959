package native

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// target is where a mount goes in a container's root.
type target struct {
	// path is the place in the root, without symbolic links as far as the rootfs itself goes.
	path string
	// exists says that something is there in the rootfs itself.
	exists bool
	dir    bool // what exists is a directory
}

// maxLinks is how many symbolic links a path may go through (MAXSYMLINKS of Linux).
const maxLinks = 40

// locate resolves a path in a detached rootfs, to which nobody else has access, without changing anything. What is missing stays as it is
// written, also behind a symbolic link that leads nowhere (/etc/resolv.conf of many images).
func locate(root *linux.FD, name string) (target, error) {
	f, err := root.OpenInRoot(name, oPath, 0)
	if err == nil {
		defer f.Close()
		t := target{exists: true}
		if t.path, err = f.PathInMount(); err != nil {
			return target{}, err
		}
		st, err := f.Stat()
		t.dir = st.IsDir()
		return t, err
	}
	if !errors.Is(err, syscall.ENOENT) {
		return target{}, err
	}
	resolved, err := walk(root, name)
	return target{path: resolved}, err
}

// walk is the slow way, component by component.
func walk(root *linux.FD, name string) (string, error) {
	at, todo, links := "/", components(name), 0
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		if c == ".." {
			at = path.Dir(at)
			continue
		}
		link, err := readLink(root, at, c)
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return "", fmt.Errorf("resolve %s in rootfs: %w", name, syscall.ELOOP)
			}
			todo = append(components(link), todo...)
			if strings.HasPrefix(link, "/") {
				at = "/"
			}
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOENT): // no link; or missing, and so is all behind it
			at = path.Join(at, c)
		default:
			return "", err
		}
	}
	return at, nil
}

func readLink(root *linux.FD, dir, name string) (string, error) {
	d, err := root.OpenNoLinks(dir, oPath|oDirectory, 0)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return d.ReadLinkEntry(name)
}

// components are the parts of a path that say something.
func components(p string) []string {
	var out []string
	for _, c := range strings.Split(p, "/") {
		if c != "" && c != "." {
			out = append(out, c)
		}
	}
	return out
}

// makeTarget makes what a located target lacks: its parents, and a directory or an empty file, all of them root's.
func (u *users) makeTarget(root *linux.FD, t target, dir bool) error {
	if t.exists {
		return t.check(dir)
	}
	parts := components(t.path)
	last := parts[len(parts)-1]
	parent, err := u.makeDirectories(root, parts[:len(parts)-1])
	if err != nil {
		return err
	}
	defer parent.Close()
	if dir {
		err = parent.MakeDirEntry(last, 0o755)
	} else {
		var f *linux.FD
		f, err = parent.CreateEntry(last, 0o644)
		f.Close()
	}
	if err != nil {
		return err
	}
	return u.own(parent, last)
}

// check refuses a mount of a directory on something else, or the reverse, in words.
func (t target) check(dir bool) error {
	switch {
	case dir && !t.dir:
		return errs.New(errs.InvalidArgument, "mount on %s: a directory on what is none: %w", t.path, syscall.ENOTDIR)
	case !dir && t.dir:
		return errs.New(errs.InvalidArgument, "mount on %s: a file on a directory: %w", t.path, syscall.EISDIR)
	}
	return nil
}

// makeDirectories goes down from root, making what is missing, never through a symbolic link. The caller closes the result.
func (u *users) makeDirectories(root *linux.FD, parts []string) (*linux.FD, error) {
	at, err := root.OpenNoLinks("/", oPath|oDirectory, 0)
	if err != nil {
		return nil, err
	}
	for _, c := range parts {
		next, err := u.subdirectory(at, c)
		at.Close()
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

func (u *users) subdirectory(at *linux.FD, name string) (*linux.FD, error) {
	if u != nil { // only what is made here is given away
		err := at.MakeDirEntry(name, 0o755)
		if err == nil {
			err = u.own(at, name)
		}
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return nil, err
		}
	}
	return at.Subdirectory(name, 0o755)
}
