package linux

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// LocationOnly is the open flag for a descriptor that names a file without opening it (O_PATH).
const LocationOnly = unix.O_PATH

// SetSuperblockReadOnly makes the whole filesystem read-only whose mount has its root at f: every mount of it, now and later. Fails with
// EBUSY while a file of it is open for writing. fspick(2), Linux 5.2.
func (f *FD) SetSuperblockReadOnly() error {
	fs, err := retryFD("fspick", f.Name(), func() (int, error) {
		return unix.Fspick(f.Int(), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	})
	if err != nil {
		return err
	}
	defer fs.Close()
	if err := retry(func() error { return unix.FsconfigSetFlag(fs.Int(), "ro") }); err != nil {
		return fmt.Errorf("set read-only %s: %w%s", f.Name(), err, fs.complaints())
	}
	if err := retry(func() error { return unix.FsconfigReconfigure(fs.Int()) }); err != nil {
		return fmt.Errorf("make superblock read-only %s: %w%s", f.Name(), err, fs.complaints())
	}
	return nil
}
