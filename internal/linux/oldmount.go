package linux

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NewMountOld is [NewMount] by mount(2), for filesystems whose options do not fit fsconfig(2), where a value has 255 bytes at most: data
// is one page of options. It happens in a copy of the mount namespace that is gone afterwards: target is an existing directory on which
// the filesystem lies meanwhile, and nobody else sees it there. options, called in that copy, gives data: descriptors that
// it opens are of the copy's mounts, which overlay demands (below Linux 6.15). They are closed at the end.
func NewMountOld(fstype, target string, options func() (data string, keep []*FD, err error)) (m *FD, err error) {
	err = inCopyOfMounts(func() error {
		data, keep, err := options()
		defer CloseAll(keep...)
		if err != nil {
			return err
		}
		if err := retry(func() error { return unix.Mount(fstype, target, fstype, 0, data) }); err != nil {
			return fmt.Errorf("mount %s: %w", fstype, err)
		}
		at, err := OpenDir(target)
		if err != nil {
			return err
		}
		defer at.Close()
		m, err = at.CloneMount(false)
		return err
	})
	return m, err
}
