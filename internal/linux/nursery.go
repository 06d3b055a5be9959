package linux

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Below is a detached mount for a place in another.
type Below struct {
	Path  string
	Mount *FD
}

// NamespaceWithOnly returns a new mount namespace in which the detached mount root, with others below it, is everything there is. The host's mounts
// are copied and dropped again on the way; nothing of it is seen outside.
func NamespaceWithOnly(root *FD, below ...Below) (*FD, error) {
	var ns *FD
	err := OnThrowAwayThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mount namespace: %w", err)
		}
		// Opened while /proc is in sight: the other way, PIDFD_GET_MNT_NAMESPACE, needs Linux 6.11.
		if ns, err = Open("/proc/thread-self/ns/mnt", unix.O_RDONLY, 0); err != nil {
			return err
		}
		if err = onlyMount(root); err == nil {
			err = attachBelow(root, below)
		}
		if err != nil {
			ns.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// onlyMount makes root the root of the thread's mount namespace and drops the rest.
func onlyMount(root *FD) error {
	slash, err := OpenDir("/")
	if err != nil {
		return err
	}
	defer slash.Close()
	// Private first: neither what follows nor its undoing may propagate to the host.
	if err := slash.SetMountAttr(MountAttr{Propagation: unix.MS_PRIVATE, Recursive: true}); err != nil {
		return err
	}
	if err := root.MoveMountTo(slash); err != nil {
		return err
	}
	if err := unix.Fchdir(root.Int()); err != nil {
		return fmt.Errorf("enter %s: %w", root.Name(), err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root to %s: %w", root.Name(), err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("drop the host's mounts: %w", err)
	}
	return nil
}

func attachBelow(root *FD, below []Below) error {
	for _, b := range below {
		at, err := root.OpenNoLinks(b.Path, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		err = b.Mount.MoveMountTo(at)
		at.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// LastCapability is the greatest capability this kernel knows (/proc/sys/kernel/cap_last_cap).
func LastCapability() (int, error) {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, fmt.Errorf("find last capability: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("find last capability: %w", err)
	}
	return n, nil
}
