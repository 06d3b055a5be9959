package layers

import (
	"errors"
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
		return parent.SetXattr(xattrOpaque, "y")
	}
	err = parent.MakeNodeEntry(name, linux.TypeCharacter, 0, 0)
	if !errors.Is(err, syscall.EEXIST) {
		if err == nil {
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
	return own.SetXattr(xattrOpaque, "y")
}
