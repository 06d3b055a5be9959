package stats

import (
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	type look struct {
		after time.Duration
		count uint64
		want  int64 // -1: unknown
	}
	for name, looks := range map[string][]look{
		"nothing is known at the first look":           {{0, 5e9, -1}},
		"half a core":                                  {{0, 0, -1}, {10 * time.Second, 5e9, 500e6}},
		"looks close together repeat what was found":   {{0, 0, -1}, {2 * time.Second, 2e9, 1e9}, {100 * time.Millisecond, 9e9, 1e9}},
		"and do not shorten the window":                {{0, 0, -1}, {600 * time.Millisecond, 1e9, -1}, {1400 * time.Millisecond, 1e9, 500e6}},
		"an hour's average is nobody's":                {{0, 0, -1}, {time.Hour, 5e9, -1}, {time.Second, 6e9, 1e9}},
		"a counter that began anew":                    {{0, 9e9, -1}, {10 * time.Second, 1e9, -1}, {10 * time.Second, 2e9, 100e6}},
		"none at all is known to be none, not unknown": {{0, 1, -1}, {10 * time.Second, 1, 0}},
		"several cores":                                {{0, 0, -1}, {time.Second, 4e9, 4e9}},
	} {
		t.Run(name, func(t *testing.T) {
			var r Rate
			at := time.Unix(1000, 0)
			for i, l := range looks {
				at = at.Add(l.after)
				got := int64(-1)
				if n := r.Of(at, l.count); n != nil {
					got = int64(*n)
				}
				if got != l.want {
					t.Errorf("look %d: %d, want %d", i, got, l.want)
				}
			}
		})
	}
}
