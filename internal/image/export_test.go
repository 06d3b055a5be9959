package image

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
