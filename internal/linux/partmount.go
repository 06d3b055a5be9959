package linux

import (
	"golang.org/x/sys/unix"
)

// CloneInside clones what is at path, resolved inside the detached mount f, into a detached mount of its own: for kernels below 6.15, which refuse that
// (EINVAL) while f is attached nowhere. It is attached at target, an existing directory, in a copy of the mount namespace that is gone afterwards;
// nobody else sees it there, and f is of no more use.
func (f *FD) CloneInside(path, target string) (part *FD, err error) {
	err = inCopyOfMounts(func() error {
		at, err := OpenDir(target)
		if err != nil {
			return err
		}
		defer at.Close()
		if err := f.MoveMountTo(at); err != nil {
			return err
		}
		inside, err := f.OpenInRoot(path, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer inside.Close()
		part, err = inside.CloneMount(false)
		return err
	})
	return part, err
}
