package linux

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// retry runs a system call again for as long as a signal interrupts it.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// retryFD is retry for calls that make a descriptor, which it names and takes.
func retryFD(op, object string, call func() (int, error)) (*FD, error) {
	for {
		n, err := call()
		switch {
		case err == nil:
			return NewFD(n, object), nil
		case !errors.Is(err, unix.EINTR):
			return nil, fmt.Errorf("%s %s: %w", op, object, err)
		}
	}
}
