package layers

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"syscall"

	"fermata/internal/linux"
)

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// UnpackOnto unpacks an archive onto the merged tree of the layers below it, as every program that unpacks layers one after the other does. open must
// give the same uncompressed archive twice: whiteouts first, because they concern only what lies below, then all the rest. Parent paths follow symbolic
// links within the root. The result's Implied is empty; its size is that of the archive's entries (see [Measure] for what a copy-up adds).
func UnpackOnto(ctx context.Context, root *linux.FD, open func() (io.ReadCloser, error), limits Limits) (*Result, error) {
	for _, pass := range []func(*unpacker) func(*tar.Header, string, *tar.Reader) error{
		func(u *unpacker) func(*tar.Header, string, *tar.Reader) error { return u.removeHidden },
		func(u *unpacker) func(*tar.Header, string, *tar.Reader) error { return u.place },
	} {
		u := newUnpacker(ctx, root, limits)
		u.onto = true
		err := u.pass(open, pass(u))
		if err == nil {
			err = u.finishDirs()
		}
		u.close()
		if err != nil {
			return nil, err
		}
	}
	return &Result{}, nil
}

func (u *unpacker) pass(open func() (io.ReadCloser, error), do func(*tar.Header, string, *tar.Reader) error) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	return u.all(r, do)
}

// removeHidden is the first pass: it takes away what whiteouts hide.
func (u *unpacker) removeHidden(_ *tar.Header, name string, _ *tar.Reader) error {
	dir, base := split(name)
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return nil
	}
	target, all, err := hidden(base)
	if err != nil || target == "" && !all {
		return err
	}
	parent, err := u.openPathOrRoot(dir)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	if !all {
		return parent.RemoveTreeEntry(target)
	}
	readable, err := parent.OpenBeneath(".", readDir, 0)
	if err != nil {
		return err
	}
	defer readable.Close()
	return readable.RemoveContents()
}

// makeParentsOnto makes what is missing of a path, where links lead on inside the root.
func (u *unpacker) makeParentsOnto(p string) error { return u.makeThrough(p, 0) }

func (u *unpacker) makeThrough(p string, links int) error {
	if p == "" {
		return nil
	}
	dir, err := u.openPath(p)
	if err == nil {
		return dir.Close()
	}
	if links > maxLinks || errors.Is(err, syscall.ELOOP) {
		return refuse("%q goes through over %d symbolic links", clip(p), maxLinks)
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return refuse("%q goes through something that is not a directory", clip(p))
	}
	if !errors.Is(err, syscall.ENOENT) {
		return err
	}
	parentPath, base := split(p)
	if err := u.makeThrough(parentPath, links+1); err != nil {
		return err
	}
	parent, err := u.openPathOrRoot(parentPath)
	if err != nil {
		return err
	}
	defer parent.Close()
	err = parent.MakeDirEntry(base, 0o755)
	if err == nil {
		return u.finishImplied(parent, base, false)
	}
	if !errors.Is(err, syscall.EEXIST) {
		return err
	}
	// A link to what is not there: make what it means.
	target, err := parent.ReadLinkEntry(base)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(target, "/") {
		target = path.Join("/", parentPath, target)
	}
	clean, err := u.limits.clean(path.Clean(target))
	if err != nil {
		return err
	}
	return u.makeThrough(clean, links+1)
}

// Measure walks an unpacked layer and returns what it takes on disk. Names of one inode count once.
func Measure(ctx context.Context, root *linux.FD) (bytes, inodes uint64, err error) {
	m := measure{ctx: ctx, seen: map[uint64]bool{}}
	dir, err := root.OpenBeneath(".", readDir, 0)
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	err = m.walk(dir)
	return m.bytes, m.inodes, err
}

type measure struct {
	ctx           context.Context
	bytes, inodes uint64
	seen          map[uint64]bool
}

func (m *measure) walk(dir *linux.FD) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	st, err := dir.Stat()
	if err != nil {
		return err
	}
	m.add(st)
	names, err := dir.EntryNames()
	if err != nil {
		return err
	}
	for _, n := range names {
		st, err := dir.StatEntry(n)
		if err != nil {
			return err
		}
		if !st.IsDir() {
			m.add(st)
			continue
		}
		sub, err := dir.OpenEntry(n, readDir)
		if err != nil {
			return err
		}
		err = errors.Join(m.walk(sub), sub.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *measure) add(st linux.EntryStat) {
	if st.Links > 1 && !st.IsDir() {
		if m.seen[st.Inode] {
			return
		}
		m.seen[st.Inode] = true
	}
	m.inodes++
	m.bytes += uint64(st.Blocks) * 512
}
