package pod

import (
	"sync"
	"syscall"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/stats"
)

// figures are the meters of the control groups that are asked about. A meter is made by the first question and closed with the group ([Manager.removeCgroup]);
// nothing reads while nobody asks. The zero value is ready.
type figures struct {
	mu     sync.Mutex
	meters map[meterKey]*meter
	closed bool
	// most bounds the meters that keep their files open; set by the first question.
	most int
}

// meterKey is the own group of a pod or container, by which its meters are dropped; whole is the meter of the group above, that is all a pod's.
type meterKey struct {
	group string
	whole bool
}

type meter struct {
	*cgroup.Meter
	// rate is of the group itself, sum of what a pod without a group of its own uses in all.
	rate, sum stats.Rate
}

// of returns a group's meter, nil if no more descriptors should be kept.
func (f *figures) of(key meterKey, group *cgroup.Group) *meter {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.meters[key]; m != nil {
		return m
	}
	if f.meters == nil {
		f.meters, f.most = map[meterKey]*meter{}, meterLimit()
	}
	if f.closed || len(f.meters) >= f.most {
		return nil
	}
	m := &meter{Meter: group.Meter()}
	f.meters[key] = m
	return m
}

// meterLimit leaves most of the descriptors this process may have to others.
func meterLimit() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<20)) / 4 / cgroup.MeterFiles
}

// drop closes the meters of a group.
func (f *figures) drop(group string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range []meterKey{{group, false}, {group, true}} {
		if m := f.meters[key]; m != nil {
			delete(f.meters, key)
			m.Close()
		}
	}
}

// close closes all meters, for good.
func (f *figures) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for key, m := range f.meters {
		delete(f.meters, key)
		m.Close()
	}
}

// usage reads what a group uses and its rate of processor time, nil if that is unknown.
func (m *Manager) usage(key meterKey, path string) (cgroup.Stats, *uint64, error) {
	group := m.Cgroups.Group(path)
	kept := m.figures.of(key, group)
	if kept == nil {
		once := group.Meter()
		defer once.Close()
		s, err := once.Usage()
		return s, nil, err
	}
	s, err := kept.Usage()
	if err != nil {
		if errs.Is(err, errs.NotFound) {
			m.figures.drop(key.group)
		}
		return s, nil, err
	}
	return s, kept.rate.Of(s.Time, s.CPU.Usage), nil
}
