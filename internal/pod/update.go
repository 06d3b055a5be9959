package pod

import (
	"context"
	"fmt"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

// UpdateContainerResources changes the limits that are set in the request (UCR-1): all of them or, on an error, none.
func (m *Manager) UpdateContainerResources(ctx context.Context, id string, change *runtimeapi.LinuxContainerResources) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	if change == nil {
		return errs.New(errs.InvalidArgument, "update resources of container %s: linux: missing", c.id)
	}
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	defer c.op.release()
	r := c.snapshot()
	if r.State != Created && r.State != StateRun {
		return errs.New(errs.FailedPrecondition, "update resources of container %s: it is %s", c.id, r.State)
	}
	merged := mergeResources(r.Resources.M, change)
	made, err := m.Records.ReadSpec(r.PodID, r.ID)
	if err != nil {
		return err
	}
	limits, err := spec.Resources(merged, m.Facts)
	if err == nil {
		err = m.updateOOMScore(made, change.GetOomScoreAdj())
	}
	if err != nil {
		return fmt.Errorf("update resources of container %s: %w", c.id, err)
	}
	before := made.Linux.Resources
	limits.Devices = before.Devices
	made.Linux.Resources = limits
	if r.State == StateRun {
		group := m.Cgroups.Group(r.Cgroup)
		err = group.Apply(checked(limits, change))
		if err == nil {
			err = m.writeResources(c, merged, made)
		}
		if err != nil {
			if undone := group.Apply(before); undone != nil {
				err = fmt.Errorf("%w (and put the old limits back: %v)", err, undone)
			}
		}
	} else {
		err = m.writeResources(c, merged, made)
	}
	if err != nil {
		return fmt.Errorf("update resources of container %s: %w", c.id, err)
	}
	return nil
}

// checked is limits, refused where a memory limit that is asked for is below what is in use: v1's kernel refuses some of those itself, v2's takes all
// and ends processes (UCR-3). The kubelet looks first too, at figures that are older.
func checked(limits *specs.LinuxResources, change *runtimeapi.LinuxContainerResources) *specs.LinuxResources {
	if change.GetMemoryLimitInBytes() <= 0 || limits.Memory == nil {
		return limits
	}
	asked, memory, yes := *limits, *limits.Memory, true
	memory.CheckBeforeUpdate = &yes
	asked.Memory = &memory
	return &asked
}

// updateOOMScore changes what a container that is created will get, and what execs in one that runs get (UCR-2); 0 is "as before".
func (m *Manager) updateOOMScore(made *specs.Spec, score int64) error {
	const limit = 1000 // proc_pid_oom_score_adj(5)
	if score < -limit || score > limit {
		return errs.New(errs.InvalidArgument, "linux.oom_score_adj: %d is not from %d to %d", score, -limit, limit)
	}
	if score != 0 {
		adj := max(int(score), m.Facts.OOMScoreAdjMin)
		made.Process.OOMScoreAdj = &adj
	}
	return nil
}

// writeResources records limits that are in force.
func (m *Manager) writeResources(c *Container, limits *runtimeapi.LinuxContainerResources, made *specs.Spec) error {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	next := c.record
	next.Resources = wrap(limits)
	if err := m.Records.WriteContainer(&next, made); err != nil {
		return err
	}
	c.record = next
	m.execSpecs.drop(c.id)
	return nil
}

// mergeResources lays what is set in change over a copy of had. Zero means "as before"; a list that is not empty replaces the old one, a map's
// entries are laid over the old ones.
func mergeResources(had, change *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	merged := &runtimeapi.LinuxContainerResources{}
	if had != nil {
		merged = proto.Clone(had).(*runtimeapi.LinuxContainerResources)
	}
	if len(change.GetHugepageLimits()) > 0 {
		merged.HugepageLimits = nil
	}
	proto.Merge(merged, change)
	return merged
}

// ReopenContainerLog makes the running container's log go on in a new file of the same name (RCL-1).
func (m *Manager) ReopenContainerLog(ctx context.Context, id string) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	r := c.snapshot()
	if r.State != StateRun {
		return errs.New(errs.FailedPrecondition, "reopen log of container %s: it is %s, not running", c.id, r.State)
	}
	base := c.pod.snapshot().Config.M.GetLogDirectory()
	if base == "" || r.Config.M.GetLogPath() == "" {
		return nil // nothing is logged
	}
	dir, err := openLogDir(base, filepath.Dir(r.Config.M.GetLogPath()))
	if err != nil {
		return fmt.Errorf("reopen log of container %s: %w", c.id, err)
	}
	defer dir.Close()
	return m.Supervisor.ReopenLog(ctx, c.id, dir, filepath.Base(r.LogPath))
}
