package stats

import (
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Usage is space used by a directory tree.
type Usage struct {
	// Bytes are those allocated on disk, hard links counted once.
	Bytes  uint64
	Inodes uint64
	// Time is when it was measured.
	Time time.Time
}

// MaxAge is how old a kept measurement may be before [Cache.Of] measures again. One that took long is kept for longer, so that walking a large layer,
// however often it is asked for, takes at most one part in patience of a processor's time.
const (
	MaxAge   = 10 * time.Second
	patience = 100
)

// Measure walks a tree. What vanishes during the walk is not counted and no error: the tree is somebody's who goes on working.
func Measure(dir string) (Usage, error) {
	u := Usage{Time: time.Now()}
	linked := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // vanished
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // vanished
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !d.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		u.Bytes += uint64(st.Blocks) * 512
		u.Inodes++
		return nil
	})
	return u, err
}

// Cache keeps one tree's measurement. The zero value is ready.
type Cache struct {
	mu   sync.Mutex
	kept Usage
	took time.Duration
}

// Of returns the tree's usage, measured at most [MaxAge] ago, or as long ago as its size makes reasonable. Usage.Time says when.
func (c *Cache) Of(dir string) (Usage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.kept.Time) < max(MaxAge, patience*c.took) {
		return c.kept, nil
	}
	u, err := Measure(dir)
	if err == nil {
		c.kept, c.took = u, time.Since(u.Time)
	}
	return u, err
}
