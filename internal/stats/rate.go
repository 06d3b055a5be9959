package stats

import (
	"sync"
	"time"
)

// The sample window of a rate: shorter ones measure the scheduler's tick, longer ones somebody's absence.
const (
	MinWindow = time.Second
	MaxWindow = 2 * time.Minute
)

// Rate turns a counter of nanoseconds that is looked at now and then into nanoseconds a second, CpuUsage.usage_nano_cores. Its window is between two looks:
// nothing measures while nobody asks. The zero value is ready.
type Rate struct {
	mu    sync.Mutex
	at    time.Time
	count uint64
	last  *uint64
}

// Of returns the counter's rate since a look at least [MinWindow] ago, or as found then when asked again within it; nil if there was none, or none in
// [MaxWindow].
func (r *Rate) Of(at time.Time, count uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	window := at.Sub(r.at)
	if !r.at.IsZero() && window < MinWindow {
		return r.last
	}
	known := !r.at.IsZero() && window <= MaxWindow && count >= r.count
	began := r.count
	r.at, r.count, r.last = at, count, nil
	if known {
		n := uint64(float64(count-began) / window.Seconds())
		r.last = &n
	}
	return r.last
}
