package image

import (
	"slices"
	"time"

	"fermata/internal/errs"
)

// How much is remembered of pulls: an hour, but not more than so many.
const (
	attemptLife  = time.Hour
	attemptsKept = 128
)

// Attempt is a pull that is under way or has ended.
type Attempt struct {
	// Ref is the image's full name.
	Ref   string
	Began time.Time
	// Ended is zero while it is under way; Err is then nil.
	Ended time.Time
	Err   error
	Progress
}

// Culprit is who is to blame for its failure.
func (a *Attempt) Culprit() errs.Culprit { return errs.CulpritOf(a.Err) }

// Attempts tells of the pulls under way and those of the last hour, newest first.
func (s *Store) Attempts() []Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts = s.freshAttempts()
	all := slices.Clone(s.attempts)
	for _, f := range s.pulls {
		all = append(all, Attempt{Ref: f.ref, Began: f.began, Progress: f.progress()})
	}
	slices.SortStableFunc(all, func(a, b Attempt) int { return b.Began.Compare(a.Began) })
	return all
}

func (s *Store) freshAttempts() []Attempt {
	return slices.DeleteFunc(s.attempts, func(a Attempt) bool { return time.Since(a.Ended) > attemptLife })
}

// rememberPull keeps how a pull ended; mu is held.
func (s *Store) rememberPull(f *flight) {
	s.attempts = append(s.freshAttempts(), Attempt{Ref: f.ref, Began: f.began, Ended: time.Now(), Err: f.err, Progress: f.progress()})
	s.attempts = s.attempts[max(0, len(s.attempts)-attemptsKept):]
}
