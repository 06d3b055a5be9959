package keeper

import (
	"testing"
	"time"
)

func TestARateIsKeptHoweverOftenItIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		rate  int64
		batch int
		every time.Duration
	}{
		{"small batches one after the other", 64 << 10, 100, 5 * time.Microsecond},
		{"large ones", 1 << 20, 32 << 10, 10 * time.Millisecond},
		{"more than a container can write", 1 << 40, 64 << 10, 10 * time.Microsecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			const seconds = 3
			l := &limits{heldLog: heldLog{Rate: c.rate}}
			began := time.Unix(1e9, 0)
			asked, got := int64(0), int64(0)
			for at := time.Duration(0); at < seconds*time.Second; at += c.every {
				if asked += int64(c.batch); l.allows(c.batch, began.Add(at)) {
					got += int64(c.batch)
				}
			}
			// A second's worth at once, then the rate; the last batch may be over it.
			want := min(asked, c.rate*(seconds+1))
			if slack := int64(c.batch) + want/100; got < want-slack || got > want+slack {
				t.Errorf("%d of %d bytes were written in %d s at %d a second", got, asked, seconds, c.rate)
			}
		})
	}
}
