package explain

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Change is a difference between a container's files and its image's.
type Change struct {
	Kind ChangeKind
	// Path is absolute, as the container sees it.
	Path string
}

// ChangeKind is what became of a path.
type ChangeKind int

// The kinds. A directory in which something changed has changed itself.
const (
	Added ChangeKind = iota
	Changed
	Deleted
)

// Diff tells what a container has changed in its root file system, volumes aside, in the order of paths. What it changes meanwhile may or may not be
// told. It ends with ctx or the first error of tell.
func (e *Explainer) Diff(ctx context.Context, containerID string, tell func(Change) error) error {
	upper, lowers, err := e.Pods.Layers(containerID)
	if err != nil {
		return err
	}
	d := &differ{ctx, tell}
	dir, err := linux.Open(upper, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // never started: it has written nothing
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	var below []*linux.FD
	defer func() { linux.CloseAll(below...) }()
	for _, path := range lowers {
		lower, err := linux.Open(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		below = append(below, lower)
	}
	return d.directory(dir, below, "")
}

// differ walks what was written beside what is below it. It goes by descriptors and follows no link: the names are the container's.
type differ struct {
	ctx  context.Context
	tell func(Change) error
}

// maxDepth bounds how deep is looked: a container can make a directory in a directory for as long as its disk lasts, and on the way there are, for each, its
// descriptors and its path.
const maxDepth = 512

// opaqueAttribute marks a directory that hides what is below it: overlayfs, Documentation/filesystems/overlayfs.rst.
const opaqueAttribute = "trusted.overlay.opaque"

func opaque(dir *linux.FD) (bool, error) {
	value, err := dir.Xattr(opaqueAttribute)
	return value == "y", err
}

// directory tells of what is in one; lowers are the directories of that path below, topmost first.
func (d *differ) directory(upper *linux.FD, lowers []*linux.FD, path string) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	if strings.Count(path, "/") > maxDepth {
		return errs.New(errs.FailedPrecondition, "compare files: %.200s… is deeper than %d directories", path, maxDepth)
	}
	names, err := upper.EntryNames()
	if err != nil {
		return err
	}
	hides, err := opaque(upper)
	if err != nil {
		return err
	}
	removed := map[string]bool{}
	if hides {
		hidden, err := entriesOf(lowers)
		if err != nil {
			return err
		}
		for _, name := range hidden {
			removed[name] = true
		}
		for _, name := range names {
			delete(removed, name)
		}
		names = slices.AppendSeq(names, maps.Keys(removed))
	}
	slices.Sort(names)
	for _, name := range names {
		if removed[name] {
			if err := d.tell(Change{Deleted, path + "/" + name}); err != nil {
				return err
			}
			continue
		}
		if err := d.entry(upper, lowers, path, name); err != nil {
			return err
		}
	}
	return nil
}

// entry tells of one that was written, and of all in it.
func (d *differ) entry(upper *linux.FD, lowers []*linux.FD, path, name string) error {
	st, err := upper.StatEntry(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	was, below, err := find(lowers, name)
	defer linux.CloseAll(below...)
	if err != nil {
		return err
	}
	change := Change{Added, path + "/" + name}
	switch {
	case st.IsWhiteout() && !was:
		return nil // made and removed
	case st.IsWhiteout():
		change.Kind = Deleted
	case was:
		change.Kind = Changed
	}
	if err := d.tell(change); err != nil || !st.IsDir() {
		return err
	}
	child, err := upper.OpenEntry(name, os.O_RDONLY|syscall.O_DIRECTORY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer child.Close()
	return d.directory(child, below, change.Path)
}

// find looks for a name in directories that overlayfs would merge; of a directory it opens those to merge. They are the caller's, also with an error.
func find(lowers []*linux.FD, name string) (there bool, directories []*linux.FD, err error) {
	for _, lower := range lowers {
		st, err := lower.StatEntry(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return there, directories, err
		}
		if st.IsWhiteout() {
			return there, directories, nil
		}
		if !st.IsDir() {
			return true, directories, nil
		}
		there = true
		child, err := lower.OpenEntry(name, os.O_RDONLY|syscall.O_DIRECTORY)
		if err != nil {
			return there, directories, err
		}
		directories = append(directories, child)
		if hides, err := opaque(child); err != nil || hides {
			return there, directories, err
		}
	}
	return there, directories, nil
}

// entriesOf lists what a merge of directories shows.
func entriesOf(lowers []*linux.FD) (names []string, err error) {
	decided := map[string]bool{}
	for _, lower := range lowers {
		all, err := lower.EntryNames()
		if err != nil {
			return nil, err
		}
		for _, name := range all {
			if decided[name] {
				continue
			}
			decided[name] = true
			st, err := lower.StatEntry(name)
			if err != nil {
				return nil, err
			}
			if !st.IsWhiteout() {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
