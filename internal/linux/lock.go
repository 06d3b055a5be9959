package linux

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// LockFile takes an exclusive lock on a file, made if missing, without waiting (EWOULDBLOCK if somebody has it): flock(2). It goes with the
// returned descriptor, at the latest with the process; but a process that is killed while it starts another leaves its locks to that one until
// it executes its program.
func LockFile(path string) (*FD, error) { return AwaitLock(path, 0) }

// AwaitLock is [LockFile] that waits for a lock which somebody has, but not longer than patience.
func AwaitLock(path string, patience time.Duration) (*FD, error) {
	f, err := Open(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = retry(func() error { return unix.Flock(f.Int(), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) && patience > 0 {
		return f.awaitLock(path, patience)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// awaitLock waits on a thread of its own, which closes the file when it is had too late.
func (f *FD) awaitLock(path string, patience time.Duration) (*FD, error) {
	locked, late := make(chan error), make(chan struct{})
	go func() {
		err := retry(func() error { return unix.Flock(f.Int(), unix.LOCK_EX) })
		select {
		case locked <- err:
		case <-late:
			f.Close()
		}
	}()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-locked:
		if err == nil {
			return f, nil
		}
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	case <-t.C:
		close(late)
		return nil, fmt.Errorf("lock %s: not in %v: %w", path, patience, unix.EWOULDBLOCK)
	}
}
