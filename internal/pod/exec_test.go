package pod

import (
	"context"
	"errors"
	"os"
	"os/exec"
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

func TestKillingASessionThatGrowsEndsWithItsTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	born := 0
	err := killSession(ctx, func() ([]int, error) {
		if born++; born == 10 {
			cancel()
		}
		child := exec.Command("sleep", "60")
		if err := child.Start(); err != nil {
			return nil, err
		}
		t.Cleanup(func() { child.Process.Kill(); child.Wait() })
		return []int{child.Process.Pid}, nil
	}, &Process{PID: os.Getpid()}) // whose descendants all of them are
	if !errors.Is(err, context.Canceled) || born != 10 {
		t.Errorf("after %d processes: %v", born, err)
	}
}
