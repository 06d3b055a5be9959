package linux

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// IDMap is one range of a user namespace's numbering (user_namespaces(7)): Length IDs from Inside on are those from Outside on.
type IDMap struct{ Inside, Outside, Length uint32 }

// MapUsers gives the user namespace that a process has made and is in its numbering, through a procfs of ours: nobody can have covered it.
// It can be done once; the caller needs CAP_SETUID and CAP_SETGID.
func MapUsers(procfs *FD, pid int, uids, gids IDMap) error {
	for _, m := range []struct {
		file string
		IDMap
	}{{"uid_map", uids}, {"gid_map", gids}} {
		f, err := procfs.OpenNoLinks(fmt.Sprintf("%d/%s", pid, m.file), unix.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(fmt.Appendf(nil, "%d %d %d\n", m.Inside, m.Outside, m.Length))
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("map %d IDs from %d on: %w", m.Length, m.Outside, err)
		}
	}
	return nil
}

// UserNamespaceOf opens the user namespace that owns a namespace: ioctl_ns(2), Linux 4.9.
func (f *FD) UserNamespaceOf() (*FD, error) {
	return retryFD("find user namespace of", f.Name(), func() (int, error) {
		n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(f.Int()), unix.NS_GET_USERNS, 0)
		if e != 0 {
			return -1, e
		}
		return int(n), nil // close-on-exec from the kernel
	})
}

// HasOwnUsers says of a process, by its pidfd, whether it is in another user namespace than the caller. ESRCH says that it has ended.
func (f *FD) HasOwnUsers() (bool, error) {
	pid, err := f.PID()
	if err != nil {
		return false, err
	}
	var its, ours unix.Stat_t
	for path, st := range map[string]*unix.Stat_t{fmt.Sprintf("/proc/%d/ns/user", pid): &its, "/proc/self/ns/user": &ours} {
		if err := retry(func() error { return unix.Stat(path, st) }); err != nil {
			return false, fmt.Errorf("find user namespace of %s: %w", f.Name(), err)
		}
	}
	return its.Ino != ours.Ino || its.Dev != ours.Dev, nil
}
