package daemon

import (
	"context"
	"errors"
	"testing"
)

func TestARepairOfSeveralFindingsIsDoneOnceAndFailsAllOfThem(t *testing.T) {
	done, cause := 0, errors.New("the plugin hangs")
	repair := once(func(context.Context) error { done++; return cause })
	for range 3 {
		if err := repair(t.Context()); !errors.Is(err, cause) {
			t.Errorf("%v", err)
		}
	}
	if done != 1 {
		t.Errorf("done %d times", done)
	}
}
