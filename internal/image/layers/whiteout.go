package layers

import (
	"errors"
	"path"
	"strings"
	"syscall"

	"fermata/internal/linux"
)

// hidden reads a whiteout's name: what it hides, "" for nothing, or all of the directory.
func hidden(base string) (name string, all bool, err error) {
	switch {
	case base == opaqueMarker:
		return "", true, nil
	case strings.HasPrefix(base, aufsPrefix):
		return "", false, nil
	}
	name = strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return "", false, refuse("whiteout %q hides nothing that can be", base)
	}
	return name, false, nil
}

// whiteout hides, in overlayfs's form, what layers below may have. By the specification it concerns only those, wherever it stands in the archive:
// what this layer itself brings under that name stays.
func (u *unpacker) whiteout(dir, base string) error {
	name, all, err := hidden(base)
	if err != nil || name == "" && !all {
		return err
	}
	parent, err := u.openDir(dir, true)
	if err != nil {
		return err
	}
	if all {
		u.dirs[dir].opaque = true
		return parent.SetXattr(xattrOpaque, "y")
	}
	err = parent.MakeNodeEntry(name, linux.TypeCharacter, 0, 0)
	if !errors.Is(err, syscall.EEXIST) {
		if err == nil {
			u.dirs[dir].hides = append(u.dirs[dir].hides, name)
			u.count(0)
		}
		return err
	}
	st, err := parent.StatEntry(name)
	if err != nil || !st.IsDir() {
		return err
	}
	own, err := parent.OpenEntry(name, readDir)
	if err != nil {
		return err
	}
	defer own.Close()
	if d := u.dirs[path.Join(dir, name)]; d != nil {
		d.anew, d.opaque = true, true
	}
	return own.SetXattr(xattrOpaque, "y")
}

// finishHiding says whether a directory has whiteouts in it. In an opaque one they hide nothing and would be seen: overlayfs takes whiteouts away only where it
// merges. So there they go.
func (u *unpacker) finishHiding(p string, d *directory) (bool, error) {
	if len(d.hides) == 0 {
		return false, nil
	}
	dir, err := u.openPathOrRoot(p)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	opaque, any := u.underOpaque(p), false
	for _, name := range d.hides {
		st, err := dir.StatEntry(name)
		switch {
		case errors.Is(err, syscall.ENOENT):
		case err != nil:
			return false, err
		case st.IsWhiteout() && opaque:
			if err := dir.RemoveEntry(name); err != nil {
				return false, err
			}
		case st.IsWhiteout():
			any = true
		}
	}
	return any, nil
}

func (u *unpacker) underOpaque(p string) bool {
	for {
		if d := u.dirs[p]; d != nil && d.opaque {
			return true
		}
		if p == "" {
			return false
		}
		p, _ = split(p)
	}
}
