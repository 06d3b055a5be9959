package linux

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ReadOnce reads the beginning of a small file of proc(5) into buf, by one read(2): three system calls, where many such files are read.
func ReadOnce(path string, buf []byte) (n int, err error) {
	fd := -1
	err = retry(func() (err error) { fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); return err })
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	err = retry(func() (err error) { n, err = unix.Read(fd, buf); return err })
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}

// LinksAt reads symbolic links in a directory, as those of proc(5) are read that name namespaces and open files: by one lookup of the directory. What
// cannot be read, or is longer than such names are, is left out; target is good until tell returns.
func LinksAt(dir string, names []string, tell func(name string, target []byte)) error {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	for _, name := range names {
		if n, err := unix.Readlinkat(fd, name, buf); err == nil && n < len(buf) {
			tell(name, buf[:n])
		}
	}
	return nil
}
