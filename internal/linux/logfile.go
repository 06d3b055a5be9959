package linux

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// CheckRegular is an error unless f is a regular file.
func (f *FD) CheckRegular() error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.Int(), &st) }); err != nil {
		return fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("check %s: not a regular file: %w", f.Name(), unix.EINVAL)
	}
	return nil
}

// Size is a file's length in bytes.
func (f *FD) Size() (int64, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.Int(), &st) }); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return st.Size, nil
}

// Identity tells an open file from every other: its filesystem's device number and its inode's.
func (f *FD) Identity() (device, inode uint64, err error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.Int(), &st) }); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return uint64(st.Dev), st.Ino, nil
}

// CutTail takes n bytes off a file's end; nobody else may be writing.
func (f *FD) CutTail(n int64) error {
	if n == 0 {
		return nil
	}
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(f.Int(), &st) })
	if err == nil {
		err = retry(func() error { return unix.Ftruncate(f.Int(), max(0, st.Size-n)) })
	}
	if err != nil {
		return fmt.Errorf("cut the tail of %s: %w", f.Name(), err)
	}
	return nil
}
