package keeper

import (
	"sync"
	"time"
)

// gate lets work through until it is shut: then what is inside ends, and nothing new begins.
type gate struct {
	mu     sync.Mutex
	change *sync.Cond
	inside int
	shut   bool
}

func newGate() *gate {
	g := &gate{}
	g.change = sync.NewCond(&g.mu)
	return g
}

// enter waits until the gate is open.
func (g *gate) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut {
		g.change.Wait()
	}
	g.inside++
}

// more is for who is inside and begins something that leaves by itself.
func (g *gate) more() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside++
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.change.Broadcast()
}

// close shuts the gate and reports whether nothing is inside any more, for which it waits at most as long as given. Shut it stays either way.
func (g *gate) close(limit time.Duration) (empty bool) {
	late := false
	t := time.AfterFunc(limit, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		late = true
		g.change.Broadcast()
	})
	defer t.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for g.inside > 0 && !late {
		g.change.Wait()
	}
	return g.inside == 0
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
	g.change.Broadcast()
}
