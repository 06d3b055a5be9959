package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fermata/internal/errs"
)

// leaveLimit bounds the tidying of a daemon that ends.
const leaveLimit = 10 * time.Second

// leave takes away what the daemon made for pods, if it ends in peace and no pod is left: keeper, bridge, nft table and cgroups. All of it is made
// anew at the next start. With a pod left everything stays: its life does not depend on a daemon.
func (p *parts) leave() error {
	p.pods.Close()
	if p.pods.Any() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	err := p.keeper.client().Shutdown(ctx)
	if errs.Is(err, errs.FailedPrecondition) {
		return nil // it holds something that no record names: left for the next daemon to find
	}
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	select {
	case <-p.keeper.client().Done():
	case <-ctx.Done():
		return fmt.Errorf("leave: wait for the keeper's end: %w", ctx.Err())
	}
	return errors.Join(
		p.network.Teardown(ctx),
		p.cgroups.Group(p.keeperCgroup()).Remove(ctx),
		p.cgroups.Group(p.cfg.CgroupParent).Remove(ctx),
	)
}
