package linux

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Shared is memory that outlives the process: the pages of a file, mapped. What a process stored before it was killed is there for the next one, in the
// order in which it was stored. Only what was allocated may be touched: elsewhere a full filesystem is a SIGBUS.
type Shared struct {
	file *FD
	mem  []byte
}

// MapShared maps the first size bytes of a file, made (0600) if missing.
func MapShared(path string, size int) (*Shared, error) {
	f, err := Open(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := retry(func() error { return unix.Ftruncate(f.Int(), int64(size)) }); err != nil {
		f.Close()
		return nil, fmt.Errorf("size %s: %w", path, err)
	}
	mem, err := unix.Mmap(f.Int(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &Shared{file: f, mem: mem}, nil
}

// Bytes is the memory.
func (s *Shared) Bytes() []byte { return s.mem }

// Word is an 8-byte word of the memory, at a multiple of 8, for sync/atomic.
func (s *Shared) Word(offset int) *uint64 {
	return (*uint64)(unsafe.Pointer(&s.mem[offset : offset+8 : offset+8][0]))
}

// Allocate makes a part of the memory safe to touch, and has it mapped, so that a system call which fills it is not held up. Offsets are rounded to pages.
func (s *Shared) Allocate(from, to int) error {
	page := os.Getpagesize()
	from, to = from/page*page, min((to+page-1)/page*page, len(s.mem))
	if err := retry(func() error { return unix.Fallocate(s.file.Int(), 0, int64(from), int64(to-from)) }); err != nil {
		return fmt.Errorf("allocate %d bytes of %s: %w", to-from, s.file.Name(), err)
	}
	unix.Madvise(s.mem[from:to], unix.MADV_POPULATE_WRITE) // Linux 5.14; before, pages are mapped when touched
	return nil
}

// Free gives the pages wholly within a part back. They read as zeros and must be allocated again before they are touched.
func (s *Shared) Free(from, to int) error {
	page := os.Getpagesize()
	from, to = (from+page-1)/page*page, to/page*page
	if from >= to {
		return nil
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := retry(func() error { return unix.Fallocate(s.file.Int(), mode, int64(from), int64(to-from)) }); err != nil {
		return fmt.Errorf("free %d bytes of %s: %w", to-from, s.file.Name(), err)
	}
	return nil
}

// Close unmaps the memory; the file stays.
func (s *Shared) Close() error {
	if s == nil || s.mem == nil {
		return nil
	}
	err := unix.Munmap(s.mem)
	s.mem = nil
	return errors.Join(err, s.file.Close())
}
