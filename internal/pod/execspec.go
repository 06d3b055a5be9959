package pod

import (
	"reflect"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// maxExecSpecs is of how many containers the part of the spec that an exec needs is kept: a few kilobytes each. Containers with a probe are
	// asked every second; reading a spec, most of it the seccomp profile, took a quarter of an exec's time.
	maxExecSpecs = 128
	// maxExecProfiles bounds the seccomp profiles they share; nearly all containers have one of two.
	maxExecProfiles = 8
)

// execSpecs keeps what execs need of the specs of the containers that were exec'd into. Specs as a whole stay on disk. The zero value is ready.
type execSpecs struct {
	mu       sync.Mutex
	known    map[string]*specs.Spec // by container ID, which is never used again; not changed by anybody
	profiles []*specs.LinuxSeccomp
}

// get returns the process, the seccomp profile and the user namespace of a container's spec, which read reads the first time. What it returns is not
// to be changed.
func (e *execSpecs) get(id string, read func() (*specs.Spec, error)) (*specs.Spec, error) {
	e.mu.Lock()
	s, ok := e.known[id]
	e.mu.Unlock()
	if ok {
		return s, nil
	}
	whole, err := read()
	if err != nil {
		return nil, err
	}
	s = &specs.Spec{Process: whole.Process, Linux: &specs.Linux{}}
	e.mu.Lock()
	defer e.mu.Unlock()
	if whole.Linux != nil {
		s.Linux.UIDMappings, s.Linux.GIDMappings = whole.Linux.UIDMappings, whole.Linux.GIDMappings
		if whole.Linux.Seccomp != nil {
			s.Linux.Seccomp = e.shared(whole.Linux.Seccomp)
		}
	}
	if e.known == nil {
		e.known = map[string]*specs.Spec{}
	}
	for other := range e.known {
		if len(e.known) < maxExecSpecs {
			break
		}
		delete(e.known, other) // any: whoever is asked for again is read again
	}
	e.known[id] = s
	return s, nil
}

// shared returns an equal profile that another container has, or this one.
func (e *execSpecs) shared(p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	for _, have := range e.profiles {
		if reflect.DeepEqual(have, p) {
			return have
		}
	}
	if len(e.profiles) >= maxExecProfiles {
		e.profiles = nil
	}
	e.profiles = append(e.profiles, p)
	return p
}

// drop forgets a container that goes.
func (e *execSpecs) drop(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.known, id)
}
