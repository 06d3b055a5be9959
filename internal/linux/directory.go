package linux

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Subdirectory opens a directory directly below f, making it if it is missing. A link of that name is refused (ELOOP), not followed.
func (f *FD) Subdirectory(name string, mode os.FileMode) (*FD, error) {
	if err := f.Mkdirat(name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return f.openat2(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, beneath|unix.RESOLVE_NO_SYMLINKS)
}
