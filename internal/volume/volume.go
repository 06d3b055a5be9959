// Package volume fills anonymous volumes: what an image has at a volume's path is copied into the container's own directory (CRI MNT-11).
//
// Everything goes by descriptor. The volume's path is resolved inside the image's root; below it no link is followed, and what is made is made
// below the target, whatever the image says (CVE-2022-23648: a volume's path that led out of the image).
//
// Elsewhere: which paths are volumes (spec), mounting the image and the volume (engine), removing it (pod).
package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// What a copy may cost; more is an image that wants to fill the disk.
const (
	maxEntries = 1 << 20
	maxBytes   = 16 << 30
	maxDepth   = 256 // each level holds two descriptors
)

// CopyUp copies the contents of the directory name of an image's root into the directory to (open for reading), which takes its owner, mode, attributes and
// times too. Nothing there is no error. Not a directory, or too much, is InvalidArgument; what was copied until then stays.
func CopyUp(root *linux.FD, name string, to *linux.FD) error {
	from, err := root.OpenInRoot(name, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return nil
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		return errs.New(errs.InvalidArgument, "copy volume %s: the image has no directory there: %w", name, err)
	case err != nil:
		return fmt.Errorf("copy volume %s: %w", name, err)
	}
	defer from.Close()
	c := &copier{target: to, entries: maxEntries, bytes: maxBytes, linked: map[inode]string{}}
	if err := c.directory(from, to, nil); err != nil {
		return fmt.Errorf("copy volume %s: %w", name, err)
	}
	return nil
}

// copier is one copy under way.
type copier struct {
	target  *linux.FD
	entries int   // left
	bytes   int64 // left
	linked  map[inode]string
}

// inode is a file with several names; its first one, below the target, is in copier.linked.
type inode struct{ device, number uint64 }

// directory copies what is in a directory, then what it is: writing into it would change its times.
func (c *copier) directory(from, to *linux.FD, at []string) error {
	if len(at) > maxDepth {
		return errs.New(errs.InvalidArgument, "more than %d levels", maxDepth)
	}
	names, err := from.EntryNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if c.entries--; c.entries < 0 {
			return errs.New(errs.InvalidArgument, "more than %d entries", maxEntries)
		}
		if err := c.entry(from, to, append(at, name)); err != nil {
			return err
		}
	}
	st, err := from.Stat()
	if err != nil {
		return err
	}
	return c.attributes(from, to, st)
}

// entry copies the last of at, an entry of from.
func (c *copier) entry(from, to *linux.FD, at []string) error {
	name := at[len(at)-1]
	st, err := from.StatEntry(name)
	if err != nil {
		return err
	}
	switch st.Mode & linux.TypeMask {
	case linux.TypeDirectory:
		return c.below(from, to, at)
	case linux.TypeRegular:
		return c.file(from, to, at)
	case linux.TypeSymlink:
		target, err := from.ReadLinkEntry(name)
		if err != nil {
			return err
		}
		if err := to.SymlinkEntry(target, name); err != nil {
			return err
		}
		if err := to.ChownEntry(name, st.UID, st.GID); err != nil {
			return err
		}
		return to.SetTimesEntry(name, st.ModTime)
	}
	major, minor := linux.DeviceNumbers(st.Special)
	if err := to.MakeNodeEntry(name, st.Mode, major, minor); err != nil {
		return err
	}
	if err := to.ChownEntry(name, st.UID, st.GID); err != nil {
		return err
	}
	if err := to.ChmodEntry(name, st.Mode&^linux.TypeMask); err != nil {
		return err
	}
	return to.SetTimesEntry(name, st.ModTime)
}

func (c *copier) below(from, to *linux.FD, at []string) error {
	name := at[len(at)-1]
	source, err := from.OpenEntry(name, syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := to.MakeDirEntry(name, 0o700); err != nil {
		return err
	}
	target, err := to.OpenEntry(name, syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer target.Close()
	return c.directory(source, target, at)
}

// file copies a regular file, or gives its copy one more name.
func (c *copier) file(from, to *linux.FD, at []string) error {
	name := at[len(at)-1]
	source, err := from.OpenEntry(name, syscall.O_RDONLY|syscall.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer source.Close()
	st, err := source.Stat()
	if err != nil {
		return err
	}
	id := inode{st.Device, st.Inode}
	if first, ok := c.linked[id]; ok {
		return c.link(first, to, name)
	}
	if st.Links > 1 {
		c.linked[id] = strings.Join(at, "/")
	}
	target, err := to.CreateEntry(name, 0o600)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := c.data(source, target); err != nil {
		return err
	}
	return c.attributes(source, target, st)
}

func (c *copier) link(first string, to *linux.FD, name string) error {
	dir, err := c.target.OpenNoLinks(path.Dir(first), syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return to.LinkEntry(dir, path.Base(first), name)
}

// chunk is how much is copied at once; one of zeros becomes a hole.
const chunk = 128 << 10

func (c *copier) data(source, target *linux.FD) error {
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	size := int64(0)
	for {
		n, err := source.Read(buf)
		if errors.Is(err, io.EOF) {
			return target.Truncate(size)
		}
		if err != nil {
			return err
		}
		if c.bytes -= int64(n); c.bytes < 0 {
			return errs.New(errs.InvalidArgument, "more than %d bytes", int64(maxBytes))
		}
		size += int64(n)
		if bytes.Equal(buf[:n], zeros[:n]) {
			err = target.Skip(int64(n))
		} else {
			_, err = target.Write(buf[:n])
		}
		if err != nil {
			return err
		}
	}
}

// attributes gives a file or directory what the original has: the owner first, as changing it drops file capabilities and setuid; the times last.
func (c *copier) attributes(from, to *linux.FD, st linux.EntryStat) error {
	if err := to.Chown(st.UID, st.GID); err != nil {
		return err
	}
	names, err := from.Xattrs()
	if err != nil {
		return err
	}
	for _, name := range names {
		// The overlay's own, and a label that the node's policy gives.
		if strings.HasPrefix(name, "trusted.") || name == "security.selinux" {
			continue
		}
		value, err := from.Xattr(name)
		if err != nil {
			return err
		}
		if err := to.SetXattr(name, value); err != nil {
			return err
		}
	}
	if err := to.Chmod(st.Mode &^ linux.TypeMask); err != nil {
		return err
	}
	return to.SetTimes(st.ModTime)
}
