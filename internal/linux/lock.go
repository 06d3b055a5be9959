package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// LockFile takes an exclusive lock on a file, made if missing, without waiting (EWOULDBLOCK if somebody has it): flock(2). It goes with the
// returned descriptor, at the latest with the process.
func LockFile(path string) (*FD, error) {
	f, err := Open(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := retry(func() error { return unix.Flock(f.Int(), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
