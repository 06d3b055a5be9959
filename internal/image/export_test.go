package image

import "fermata/internal/linux"

// OverlayOver is how layers are merged, on kernels with and without lowerdir+.
func OverlayOver(lowers []*linux.FD, oneByOne bool) (*linux.FD, error) {
	return overlayOver(lowers, nil, oneByOne)
}

// Waiting is how many callers wait for pulls, for tests that need to know that a second has joined.
func (s *Store) Waiting() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := 0
	for _, f := range s.pulls {
		n += f.waiters
	}
	return n
}
