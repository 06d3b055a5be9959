package linux

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	labelAttribute = "security.selinux"
	// maxLabelDepth bounds how deep a tree is labelled: a descriptor is open for every directory on the way.
	maxLabelDepth = 512
)

// Label is the SELinux label of a file, "" for none. f may be O_PATH.
func (f *FD) Label() (string, error) {
	label, err := f.Xattr(labelAttribute)
	if n := len(label); n > 0 && label[n-1] == 0 { // the kernel's own answers end so
		label = label[:n-1]
	}
	return label, err
}

// LabelTree gives a file, or a directory with all that is in it, an SELinux label: links are labelled, not followed, and a directory comes
// after what is in it, so that one with the label is done. Filesystems without labels are left alone. f may be O_PATH.
func (f *FD) LabelTree(label string) error {
	err := f.labelTree(label, 0)
	if IsUnsupported(err) {
		return nil
	}
	return err
}

func (f *FD) labelTree(label string, depth int) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.IsDir() {
		if err := f.labelEntries(label, depth+1); err != nil {
			return err
		}
	}
	if have, err := f.Label(); err != nil || have == label {
		return err
	}
	return f.SetXattr(labelAttribute, label)
}

func (f *FD) labelEntries(label string, depth int) error {
	if depth > maxLabelDepth {
		return fmt.Errorf("label %s: deeper than %d directories", f.Name(), maxLabelDepth)
	}
	dir, err := Open(f.Path(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.EntryNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		entry, err := dir.OpenEntry(name, unix.O_PATH)
		if err == nil {
			err = entry.labelTree(label, depth)
			entry.Close()
		}
		if err != nil && !errors.Is(err, unix.ENOENT) { // removed meanwhile
			return err
		}
	}
	return nil
}
