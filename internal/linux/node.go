package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MakeDeviceEntry makes a node with exactly the given mode (type bits and permissions; the umask does not matter) in a directory that nobody
// else can change.
func (f *FD) MakeDeviceEntry(name string, mode, major, minor uint32) error {
	if err := f.MakeNodeEntry(name, mode, major, minor); err != nil {
		return err
	}
	return f.entry("set mode of", name, func() error { return unix.Fchmodat(f.Int(), name, mode&^uint32(unix.S_IFMT), 0) })
}

// DeviceNumbers splits [EntryStat.Special].
func DeviceNumbers(special uint64) (major, minor uint32) {
	return unix.Major(special), unix.Minor(special)
}

// PathInMount is where an open file lies below the root of its detached mount, as the kernel prints it.
func (f *FD) PathInMount() (string, error) {
	p, err := os.Readlink(f.Path())
	if err != nil {
		return "", fmt.Errorf("find place of %s: %w", f.Name(), err)
	}
	return p, nil
}
