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

// MaxAge is how old a kept measurement may be before [Cache.Of] measures again: walking a large layer is not for every ten seconds of every client.
const MaxAge = 10 * time.Second

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
}

// Of returns the tree's usage, measured at most [MaxAge] ago.
func (c *Cache) Of(dir string) (Usage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.kept.Time) < MaxAge {
		return c.kept, nil
	}
	u, err := Measure(dir)
	if err == nil {
		c.kept = u
	}
	return u, err
}
