package keeper

import (
	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
)

// admit takes an ID for a launch. again takes that of a pause that has ended, with the namespaces that are held of it, which until now kept them: before is that one.
func (s *Server) admit(p *process, again bool) (before *process, err error) {
	if !again {
		return nil, s.reserve(p)
	}
	if err := s.unrecord(p.id); err != nil { // before anything is recorded of the next: whoever follows this keeper finds one of them
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.processes[p.id]
	switch {
	case s.ended:
		return nil, errs.New(errs.Unavailable, "launch %s: the keeper is ending", p.id)
	case before == nil || before.told == nil || before.kind != wire.Pause:
		return nil, errs.New(errs.FailedPrecondition, "launch %s again: it is no pause that has ended", p.id)
	}
	s.processes[p.id] = p
	p.succeed(before)
	return before, nil
}

// dismiss undoes admit for a launch that failed.
func (s *Server) dismiss(p, before *process) {
	if before == nil {
		p.free()
		s.release(p)
		return
	}
	before.succeed(p)
	p.free()
	s.record(s.exitDir(), before.told, durable.Options{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes[p.id] = before
}

// succeed takes the namespaces that are held of another.
func (p *process) succeed(other *process) {
	other.mu.Lock()
	held := other.namespaces
	other.namespaces = nil
	other.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.namespaces = held
}
