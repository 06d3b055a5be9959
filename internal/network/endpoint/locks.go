package endpoint

import "sync"

// Locks keep calls about one sandbox apart: one mutex a name, made when needed and gone when nobody waits. The zero value is ready.
type Locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	sync.Mutex
	users int
}

// Lock waits for the name and returns how to let go of it.
func (l *Locks) Lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	m := l.held[name]
	if m == nil {
		m = &lock{}
		l.held[name] = m
	}
	m.users++
	l.mu.Unlock()
	m.Lock()
	return func() {
		m.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(l.held, name)
		}
	}
}
