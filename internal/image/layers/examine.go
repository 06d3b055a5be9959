package layers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"

	"fermata/internal/linux"
)

// Unpacked is one layer of an image as it lies unpacked.
type Unpacked struct {
	// Dir is the layer's root; O_PATH will do. It stays the caller's.
	Dir *linux.FD
	// Implied and Hiding are what [Result] said.
	Implied, Hiding []string
}

// Look is how a directory looks.
type Look struct {
	UID, GID uint32
	Mode     uint32 // permission bits, in kernel form
	Xattrs   map[string]string
}

func (l Look) equal(o Look) bool {
	return l.UID == o.UID && l.GID == o.GID && l.Mode == o.Mode && maps.Equal(l.Xattrs, o.Xattrs)
}

var plain = Look{Mode: 0o755}

// Examiner looks at an image's layers from the base up and finds where stacking them would differ from unpacking one after the other. The zero value is
// ready.
type Examiner struct {
	below []*linux.FD     // base first
	looks map[string]Look // directories that must look so and, at the top of their layers, do not
}

// NeedsBase says whether a layer, next in turn, has a directory where the layers below have something that is none (a link, above all), or a whiteout in a
// directory that the layers below do not have (which overlayfs, merging nothing there, would show): it must be unpacked onto its base.
func (e *Examiner) NeedsBase(l Unpacked) (bool, error) {
	for _, p := range l.Implied {
		dir, err := e.findUnder(l, p)
		if errors.Is(err, errBlocked) {
			return true, nil
		}
		if err := errors.Join(err, dir.Close()); err != nil {
			return false, err
		}
	}
	for _, p := range l.Hiding {
		own, merges, err := findIn(l.Dir, p)
		if err := errors.Join(err, own.Close()); err != nil || !merges {
			return err == nil, err
		}
		dir, err := e.find(p)
		if dir == nil || err != nil {
			return err == nil || errors.Is(err, errBlocked), ignore(err, errBlocked)
		}
		dir.Close()
	}
	return false, nil
}

// Add takes the next layer, which does not need its base.
func (e *Examiner) Add(l Unpacked) error {
	implied := map[string]bool{}
	next := map[string]Look{}
	for _, p := range l.Implied {
		implied[p] = true
		look, err := e.lookUnder(l, p, next)
		if err != nil {
			return err
		}
		if !look.equal(plain) {
			next[p] = look
		}
	}
	for p, look := range e.looks {
		if implied[p] {
			continue
		}
		over, err := overrides(l.Dir, p)
		if err != nil {
			return err
		}
		if !over {
			next[p] = look
		}
	}
	e.looks = next
	e.below = append(e.below, l.Dir)
	return nil
}

// lookUnder is how a directory that a layer implies must look: as below; if new, plain, but for what a setgid parent hands on. next has the looks of the
// layer's implied directories so far, parents before what is in them.
func (e *Examiner) lookUnder(l Unpacked, p string, next map[string]Look) (Look, error) {
	dir, err := e.findUnder(l, p)
	if err != nil {
		return Look{}, err
	}
	if dir == nil {
		parent, _ := split(p)
		if above := next[parent]; p != "" && above.Mode&setgid != 0 {
			return Look{GID: above.GID, Mode: plain.Mode | setgid}, nil
		}
		dir, _, err = findIn(l.Dir, p) // as it was unpacked
		if err != nil || dir == nil {
			return plain, err
		}
		defer dir.Close()
		look, err := lookOf(dir)
		if look.Mode&setgid == 0 {
			look = plain
		}
		return look, err
	}
	defer dir.Close()
	if look, ok := e.looks[p]; ok {
		return look, nil
	}
	return lookOf(dir)
}

// findUnder is find for a directory that a layer implies: nil also if the layer itself hides what is below there.
func (e *Examiner) findUnder(l Unpacked, p string) (*linux.FD, error) {
	if parent, _ := split(p); parent != "" {
		dir, merges, err := findIn(l.Dir, parent)
		if err := errors.Join(err, dir.Close()); err != nil || !merges {
			return nil, err
		}
	}
	return e.find(p)
}

// Fixup returns what a fix-up layer on top of all added has to hold: how directories must look, by path, their parents included. Empty if none is needed.
func (e *Examiner) Fixup() (map[string]Look, error) {
	all := maps.Clone(e.looks)
	for p := range e.looks {
		for p != "" {
			p, _ = split(p)
			if _, ok := all[p]; ok {
				continue
			}
			dir, err := e.find(p)
			if err != nil {
				return nil, err
			}
			look, err := lookOf(dir)
			if err := errors.Join(err, dir.Close()); err != nil {
				return nil, err
			}
			all[p] = look
		}
	}
	return all, nil
}

var errBlocked = errors.New("something that is not a directory is there")

// find returns the directory at a path in the merged layers so far; nil if there is none; errBlocked if the path is, or goes through, something else.
func (e *Examiner) find(p string) (*linux.FD, error) {
	for _, layer := range slices.Backward(e.below) {
		dir, merges, err := findIn(layer, p)
		if err != nil || dir != nil || !merges {
			return dir, err
		}
	}
	return nil, nil
}

// findIn looks into one layer for a directory: nil if it is not there. merges says whether at that path, found or not, the layers below count too.
func findIn(layer *linux.FD, p string) (dir *linux.FD, merges bool, err error) {
	cur, err := layer.Dup()
	if err != nil || p == "" {
		return cur, err == nil, err
	}
	merges = true
	for component := range strings.SplitSeq(p, "/") {
		st, err := cur.StatEntry(component)
		switch {
		case errors.Is(err, syscall.ENOENT):
			return nil, merges, cur.Close()
		case err != nil:
			return nil, false, errors.Join(err, cur.Close())
		case st.IsWhiteout():
			return nil, false, cur.Close()
		case !st.IsDir():
			return nil, false, errors.Join(errBlocked, cur.Close())
		}
		sub, err := cur.OpenEntry(component, oPath|syscall.O_DIRECTORY)
		cur.Close()
		if err != nil {
			return nil, false, err
		}
		cur = sub
		opaque, err := cur.Xattr(xattrOpaque)
		if err != nil {
			return nil, false, errors.Join(err, cur.Close())
		}
		if opaque == "y" {
			merges = false
		}
	}
	return cur, merges, nil
}

// overrides says whether a layer, in which the directory p is not implied, decides by itself how p looks or that it is gone.
func overrides(layer *linux.FD, p string) (bool, error) {
	dir, merges, err := findIn(layer, p)
	if errors.Is(err, errBlocked) {
		return true, nil
	}
	if dir != nil {
		return true, dir.Close()
	}
	return !merges, err
}

func ignore(err, known error) error {
	if errors.Is(err, known) {
		return nil
	}
	return err
}

func lookOf(dir *linux.FD) (Look, error) {
	st, err := dir.Stat()
	if err != nil {
		return Look{}, err
	}
	l := Look{UID: st.UID, GID: st.GID, Mode: st.Mode & 0o7777}
	names, err := dir.Xattrs()
	if err != nil {
		return Look{}, err
	}
	for _, n := range names {
		if !wanted(n) {
			continue
		}
		value, err := dir.Xattr(n)
		if err != nil {
			return Look{}, err
		}
		if l.Xattrs == nil {
			l.Xattrs = map[string]string{}
		}
		l.Xattrs[n] = value
	}
	return l, nil
}

// WriteFixup makes a layer of nothing but directories with the looks they must have ([Examiner.Fixup]) in the empty directory root.
func WriteFixup(root *linux.FD, looks map[string]Look) error {
	u := newUnpacker(context.Background(), root, Limits{})
	defer u.close()
	u.dirs[""] = &directory{}
	for _, p := range slices.Sorted(maps.Keys(looks)) {
		dir, err := u.openFixup(p)
		if err != nil {
			return err
		}
		err = errors.Join(applyLook(dir, looks[p]), dir.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) openFixup(p string) (*linux.FD, error) {
	if err := u.makeParents(p); p != "" && err != nil {
		return nil, err
	}
	if p == "" {
		return u.root.OpenBeneath(".", readDir, 0)
	}
	return u.openPath(p)
}

func applyLook(dir *linux.FD, l Look) error {
	if err := dir.Chown(l.UID, l.GID); err != nil {
		return err
	}
	if err := dir.Chmod(l.Mode); err != nil {
		return err
	}
	for name, value := range l.Xattrs {
		if err := dir.SetXattr(name, value); err != nil {
			return err
		}
	}
	return nil
}

// CopyLook gives the open directory to the look of the one at a path of the host's.
func CopyLook(to *linux.FD, path string) error {
	from, err := linux.OpenDir(path)
	if err != nil {
		return err
	}
	defer from.Close()
	look, err := lookOf(from)
	if err != nil {
		return err
	}
	return applyLook(to, look)
}
