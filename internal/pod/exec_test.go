package pod

import (
	"testing"
	"time"

	"fermata/internal/errs"
)

// A launch that is given up goes on: its command must be ended, not left to run.
func TestATimeoutWhileTheCommandIsLaunchedLeavesNoProcess(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	if _, err := n.ExecSync(t.Context(), id, []string{"hang"}, time.Millisecond); !errs.Is(err, errs.DeadlineExceeded) {
		t.Errorf("exec: %v", err)
	}
	if n.runtime.live() != 2 { // pause and the container
		t.Errorf("%d processes live", n.runtime.live())
	}
}

// While the whole group is killed for the only exec in it, another must not be born into it.
func TestNoExecBeginsWhileAnothersGroupIsKilled(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	c := must[*Container](t)(n.anyContainer(id))
	c.execGate <- struct{}{}
	before := n.runtime.started
	if _, err := n.ExecSync(t.Context(), id, []string{"echo", "x"}, time.Millisecond); !errs.Is(err, errs.DeadlineExceeded) {
		t.Errorf("exec: %v", err)
	}
	if n.runtime.started != before {
		t.Error("it was launched")
	}
	c.execGate.release()
	if _, err := n.ExecSync(t.Context(), id, []string{"echo", "x"}, 0); err != nil {
		t.Error(err)
	}
}
