package pod

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/failpoint"
	"fermata/internal/linux"
)

// startErrorCode is the exit code of a container that never ran (STC-3).
const startErrorCode = 128

// StartContainer launches a created container's first process. If that fails the container has exited, with code 128, reason StartError and the cause.
func (m *Manager) StartContainer(ctx context.Context, id string) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	if err := c.op.acquire(ctx); err != nil {
		return err
	}
	defer c.op.release()
	if err := m.beginStart(c); err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	// From here on it is finished whatever becomes of the caller: a half-started container would be nobody's.
	ctx = context.WithoutCancel(ctx)
	r := c.snapshot()
	proc, err := m.launch(ctx, c, &r)
	if err != nil {
		m.failStart(ctx, c, &r, err)
		return fmt.Errorf("start container %s: %w", r.Config.M.GetMetadata().GetName(), err)
	}
	m.started(c, &r, proc)
	return nil
}

// beginStart moves the container to starting and registers for its end before that can happen.
func (m *Manager) beginStart(c *Container) error {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.record.State != Created {
		return errs.New(errs.FailedPrecondition, "it is %s, not created", c.record.State)
	}
	if c.pod.record.State != Ready {
		return errs.New(errs.FailedPrecondition, "its pod sandbox %s is %s", c.pod.id, c.pod.record.State)
	}
	if err := failpoint.Hit("start/record"); err != nil {
		return err
	}
	next := c.record
	next.State = Starting
	if err := m.Records.WriteContainer(&next, nil); err != nil {
		return err
	}
	c.record = next
	c.gone = make(chan struct{})
	return nil
}

// launch is the pipeline of a container's start.
func (m *Manager) launch(ctx context.Context, c *Container, r *ContainerRecord) (proc *Process, err error) {
	sandbox := c.pod.snapshot()
	start := ContainerStart{ID: c.id, SandboxID: sandbox.ID, Config: r.Config.M, Sandbox: sandbox.Config.M, Lowers: r.Lowers, Dir: m.containerDir(r)}
	defer func() {
		start.LogDir.Close()
		closeImageVolumes(start.Volumes)
	}()
	err = c.journal.perform("start", []step{
		{"prepare", func() error {
			if err := m.checkTarget(r.Config.M, sandbox.ID); err != nil {
				return err
			}
			if ns := r.Config.M.GetLinux().GetSecurityContext().GetNamespaceOptions(); ns.GetPid() == runtimeapi.NamespaceMode_TARGET {
				target, err := m.findContainer(ns.GetTargetId())
				if err != nil {
					return err
				}
				start.TargetID = target.id
			}
			start.Spec, err = m.Records.ReadSpec(r.PodID, r.ID)
			return err
		}},
		{"volumes", func() error {
			start.Volumes, err = m.openImageVolumes(r, start.Spec)
			start.Relabel = m.relabelled(r, start.Spec)
			return err
		}},
		{"log", func() error {
			if sandbox.Config.M.GetLogDirectory() == "" || r.Config.M.GetLogPath() == "" {
				return nil
			}
			start.LogBase = filepath.Base(r.LogPath)
			start.LogDir, err = openLogDir(sandbox.Config.M.GetLogDirectory(), filepath.Dir(r.Config.M.GetLogPath()))
			return err
		}},
		{"cgroup", func() error {
			start.Cgroup, err = m.Cgroups.Create(r.Cgroup)
			if err != nil {
				return err
			}
			return start.Cgroup.Apply(start.Spec.Linux.Resources)
		}},
		{"launch", func() error {
			proc, err = m.Runtime.StartContainer(ctx, &start)
			return err
		}},
	}...)
	if err != nil && proc != nil { // launched, and then something went wrong: it is ended with its cgroup
		proc.Pidfd.Close()
	}
	return proc, err
}

// openLogDir opens the directory of a log file, making what is missing below the pod's log directory and following no link on the way (CVE-2026-53489's class).
func openLogDir(base, below string) (*linux.FD, error) {
	if err := makeLogDirectory(base); err != nil {
		return nil, err
	}
	dir, err := linux.OpenDir(base)
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Split(below, "/") {
		if name == "" || name == "." {
			continue
		}
		next, err := dir.Subdirectory(name, 0o755)
		dir.Close()
		if err != nil {
			return nil, fmt.Errorf("config.log_path: %w", linux.Refused(err))
		}
		dir = next
	}
	return dir, nil
}

// started records success, folding in an exit that was quicker than the answer.
func (m *Manager) started(c *Container, r *ContainerRecord, proc *Process) {
	c.init.set(proc.Pidfd)
	m.noteContainer(c, func(now *ContainerRecord) bool {
		now.State, now.Started, now.Stages = StateRun, proc.Started, c.journal.snapshot()
		now.Process = Recorded{PID: proc.PID, Inode: proc.Inode}
		return true
	})
	c.pod.mu.Lock()
	early := c.early
	c.early = nil
	c.pod.mu.Unlock()
	if early != nil {
		m.foldExit(c, *early, exitReason(*early), early.Note)
	}
}

// failStart makes the container one that exited before it ran.
func (m *Manager) failStart(ctx context.Context, c *Container, r *ContainerRecord, cause error) {
	m.noteContainer(c, func(now *ContainerRecord) bool {
		now.State, now.Reason, now.Message, now.Stages = Exited, "StartError", cause.Error(), c.journal.snapshot()
		now.Exit = &Exit{Code: startErrorCode, Finished: time.Now()}
		return true
	})
	m.cleanUp(ctx, c)
	c.closeGone()
}

// execGroup is the cgroup that a container's execs share.
func (m *Manager) execGroup(r *ContainerRecord) (*cgroup.Group, error) {
	return m.Cgroups.Group(r.Cgroup).Execs()
}
