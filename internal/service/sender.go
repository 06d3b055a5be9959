package service

import (
	"io"
	"sync"
)

// chunk is how much one message carries, in bytes.
const chunk = 256 << 10

// sender is an io.Writer over messages.
type sender func([]byte) error

// Write implements io.Writer.
func (s sender) Write(p []byte) (int, error) {
	for done := 0; done < len(p); done += chunk {
		if err := s(p[done:min(done+chunk, len(p))]); err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// oneAtATime lets two outputs share a stream, which only one may send on at a time; nil stays nil.
func oneAtATime(a, b io.Writer) (io.Writer, io.Writer) {
	if b == nil {
		return a, nil
	}
	mu := &sync.Mutex{}
	return &locked{mu, a}, &locked{mu, b}
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
