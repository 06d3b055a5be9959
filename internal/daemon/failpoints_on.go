//go:build failpoints

package daemon

import (
	"path/filepath"
	"syscall"
	"time"

	"fermata/internal/failpoint"
)

// armFailpoints makes tests able to fail any step of any pipeline by files below <state>/failpoints, and to kill the keeper there.
func (p *parts) armFailpoints() error {
	return failpoint.Arm(filepath.Join(p.cfg.State, "failpoints"), map[string]func(){"kill-keeper": p.killKeeper})
}

// killKeeper ends the keeper as kill -9 does, and returns when it is dead.
func (p *parts) killKeeper() {
	group := p.cgroups.Group(p.keeperCgroup())
	for {
		pids, err := group.Processes()
		if err != nil {
			panic(err)
		}
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}
