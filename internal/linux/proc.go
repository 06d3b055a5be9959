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
