package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/spec"
	"fermata/internal/undo"
)

// RunPodSandbox makes a sandbox that is ready when it returns: namespaces, pause, network. The same request again joins or gets the same ID.
func (m *Manager) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (string, error) {
	if err := m.checkSandbox(req); err != nil {
		return "", err
	}
	request := digest(req)
	return m.flights.join(ctx, "pod "+podKey(req.GetConfig().GetMetadata()), request, flightOps{
		create: func(ctx context.Context, wanted func() bool) (string, error) {
			return m.runOrFind(ctx, req, request, wanted)
		},
		claim:   m.claimPod,
		abandon: func(id string) { m.removeLater(id, m.abandonPod) },
	})
}

// checkSandbox refuses what can never work, before anything is done.
func (m *Manager) checkSandbox(req *runtimeapi.RunPodSandboxRequest) error {
	config := req.GetConfig()
	md := config.GetMetadata()
	bad := func(field, why string) error {
		return errs.New(errs.InvalidArgument, "run pod sandbox: %s: %s", field, why)
	}
	switch {
	case config == nil:
		return bad("config", "missing")
	case md == nil:
		return bad("config.metadata", "missing")
	case md.GetName() == "" || md.GetNamespace() == "" || md.GetUid() == "":
		return bad("config.metadata", "name, namespace and uid must not be empty")
	case !slices.Contains(m.Handlers, req.GetRuntimeHandler()):
		return bad("runtime_handler", fmt.Sprintf("no handler %q here; there are %q", req.GetRuntimeHandler(), m.Handlers))
	case config.GetLogDirectory() != "" && !filepath.IsAbs(config.GetLogDirectory()):
		return bad("config.log_directory", fmt.Sprintf("%q is not absolute", config.GetLogDirectory()))
	}
	if err := checkSandboxSecurity(config); err != nil {
		return err
	}
	if err := checkDNS(config.GetDnsConfig()); err != nil {
		return err
	}
	_, err := cgroupParent(config.GetLinux().GetCgroupParent(), m.CgroupParent)
	return err
}

// checkSandboxSecurity refuses identities, namespaces and sysctls that cannot be.
func checkSandboxSecurity(config *runtimeapi.PodSandboxConfig) error {
	sc := config.GetLinux().GetSecurityContext()
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return errs.New(errs.InvalidArgument, "run pod sandbox: linux.security_context.run_as_group: set without run_as_user")
	}
	ns := namespaces(config)
	if _, err := spec.PodUsers(config); err != nil {
		return fmt.Errorf("run pod sandbox: %w", err)
	}
	if err := spec.CheckHostname(podHostname(config)); err != nil {
		return fmt.Errorf("run pod sandbox: %w", err)
	}
	hostIPC := ns.GetIpc() == runtimeapi.NamespaceMode_NODE
	if err := spec.CheckSysctls(config.GetLinux().GetSysctls(), hostNetwork(config), hostIPC); err != nil {
		return fmt.Errorf("run pod sandbox: %w", err)
	}
	return nil
}

const (
	// maxName is NAME_MAX, the longest a file's name may be.
	maxName = 255
	// maxCgroupParent leaves room in PATH_MAX (4096) for where the hierarchy is mounted, the pod's and its containers' groups and their files: what
	// cannot be named can neither be killed nor removed.
	maxCgroupParent = 3000
)

// cgroupParent is where a pod's cgroups go, always absolute and clean.
func cgroupParent(asked, otherwise string) (string, error) {
	if asked == "" {
		return otherwise, nil
	}
	tooLong := func(name string) bool { return len(name) > maxName }
	parts := strings.Split(asked, "/")
	if slices.Contains(parts, "..") || strings.ContainsAny(asked, "\x00\n") || len(asked) > maxCgroupParent || slices.ContainsFunc(parts, tooLong) {
		return "", errs.New(errs.InvalidArgument, "run pod sandbox: config.linux.cgroup_parent: %.200q is no cgroup path", asked)
	}
	return filepath.Clean("/" + asked), nil
}

// runOrFind returns an equal pod that is ready, or makes one.
func (m *Manager) runOrFind(ctx context.Context, req *runtimeapi.RunPodSandboxRequest, request string, wanted func() bool) (string, error) {
	name := podName(req.GetConfig().GetMetadata())
	for _, p := range m.allPods() {
		r := p.snapshot()
		if podKey(r.Config.M.GetMetadata()) != podKey(req.GetConfig().GetMetadata()) || r.State == Removing {
			continue
		}
		if r.State == Ready && r.Request == request && !p.isAbandoned() {
			return r.ID, nil
		}
		// Left by a caller who gave up, and not what is wanted now. Not the record's claim: that is written a moment before the caller is found gone.
		if !p.isVisible() {
			if err := m.remove(ctx, p); err != nil {
				return "", err
			}
			continue
		}
		return "", errs.New(errs.AlreadyExists, "run pod sandbox %s: sandbox %s has this name and is %s; remove it or use another attempt number", name, r.ID, r.State)
	}
	p := &Pod{id: newID(), op: newLock(), containers: map[string]*Container{}}
	p.record = PodRecord{
		ID: p.id, State: Preparing, Config: wrap(req.GetConfig()), Handler: req.GetRuntimeHandler(), Request: request,
		Created: time.Now(), BootID: m.BootID,
	}
	return p.id, m.run(ctx, p, wanted)
}

// run is the pipeline of a sandbox's start. If what was done cannot be undone the sandbox stays, visible and not ready, for the kubelet to remove.
func (m *Manager) run(ctx context.Context, p *Pod, wanted func() bool) (err error) {
	if err := p.op.acquire(ctx); err != nil {
		return err
	}
	defer p.op.release()
	r := p.snapshot()
	config := r.Config.M
	parent, err := cgroupParent(config.GetLinux().GetCgroupParent(), m.CgroupParent)
	if err != nil {
		return err
	}
	r.Cgroup = filepath.Join(parent, r.ID)
	r.Attached = !hostNetwork(config)

	var u undo.Stack
	defer func() {
		if err != nil {
			err = m.unwind(ctx, p, &u, err)
		}
	}()
	var group *cgroup.Group
	err = p.journal.perform("run", []step{
		{"record", func() error {
			m.enter(p, &r) // unwind takes it away
			return m.Records.WritePod(&r)
		}},
		{"files", func() error {
			u.Push("files", func(context.Context) error { return os.RemoveAll(m.podState(p.id)) })
			return m.writePodFiles(p.id, config)
		}},
		{"cgroup", func() error {
			u.Push("cgroup", func(ctx context.Context) error { return m.removeCgroup(ctx, r.Cgroup) })
			group, err = m.Cgroups.Create(r.Cgroup)
			return err
		}},
		{"pause", func() error {
			u.Push("pause", func(ctx context.Context) error { return m.endPause(ctx, p) })
			return m.startPause(ctx, p, &r, group, false)
		}},
		{"network", func() error {
			if !r.Attached {
				return nil
			}
			u.Push("network", func(ctx context.Context) error { return m.Network.Detach(ctx, p.id) })
			r.IPs, err = m.Network.Attach(ctx, p.id, config)
			return err
		}},
		{"hosts", func() error { return m.writeHosts(p.id, config, r.IPs) }},
		{"ready", func() error {
			return m.updatePod(p, func(now *PodRecord) error {
				if now.State != Preparing { // pause died meanwhile
					return errs.New(errs.Internal, "pause ended while the sandbox was being made: %s", now.Message)
				}
				now.IPs, now.Pause, now.Stages, now.State, now.Claimed = r.IPs, r.Pause, p.journal.snapshot(), Ready, wanted()
				return nil
			})
		}},
	}...)
	if err != nil {
		return fmt.Errorf("run pod sandbox %s: %w", podName(config.GetMetadata()), err)
	}
	u.Commit()
	return nil
}

// enter makes a pod one of the node's, with an SELinux level that no other has, where that means something.
func (m *Manager) enter(p *Pod, r *PodRecord) {
	if m.Facts.SELinux != nil {
		m.levels.Lock()
		defer m.levels.Unlock()
		r.SELinuxLevel = m.freeLevel()
	}
	p.record = *r
	m.mu.Lock()
	m.pods[p.id] = p
	m.mu.Unlock()
}

// unwind undoes a failed start.
func (m *Manager) unwind(ctx context.Context, p *Pod, u *undo.Stack, cause error) error {
	left := u.Rollback(ctx)
	if left == nil { // its record goes last: until then it says what is to be undone
		left = m.dropPod(p)
	}
	if left == nil {
		m.remember(p, cause)
		return cause
	}
	m.notePod(p, func(r *PodRecord) bool {
		r.State, r.Reason, r.Message, r.Claimed, r.Stages = NotReady, "CleanupIncomplete", left.Error(), true, p.journal.snapshot()
		p.visible = true
		return true
	})
	m.tellNow(p, p.id, eventCreated)
	return fmt.Errorf("%w (and %v)", cause, left)
}

// startPause launches the pod's first process, or another in its place, and registers for its end before it can happen.
func (m *Manager) startPause(ctx context.Context, p *Pod, r *PodRecord, group *cgroup.Group, again bool) error {
	gone := make(chan struct{})
	p.mu.Lock()
	p.pauseGone = gone
	p.mu.Unlock()
	labels, err := m.pauseLabels(r)
	if err != nil {
		return err
	}
	proc, err := m.Runtime.StartSandbox(ctx, &SandboxStart{
		ID: p.id, Config: r.Config.M, Hostname: podHostname(r.Config.M), Cgroup: group, Labels: labels, Again: again,
	})
	if err != nil {
		p.mu.Lock()
		p.pauseGone = nil
		p.mu.Unlock()
		return err
	}
	r.Pause = Recorded{PID: proc.PID, Inode: proc.Inode}
	p.mu.Lock()
	p.record.Pause = r.Pause // launched, see resyncPod; written with what comes next
	p.mu.Unlock()
	return proc.Pidfd.Close()
}

// endPause kills the pause process, if one runs, waits for its end and forgets it.
func (m *Manager) endPause(ctx context.Context, p *Pod) error {
	p.mu.Lock()
	gone := p.pauseGone
	p.mu.Unlock()
	if gone != nil {
		err := m.Supervisor.Signal(ctx, p.id, syscall.SIGKILL)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if err == nil {
			select {
			case <-gone:
			case <-ctx.Done():
				return fmt.Errorf("wait for the end of pause: %w", ctx.Err())
			}
		}
	}
	err := m.Supervisor.Forget(ctx, p.id)
	if gone == nil || !errs.Is(err, errs.FailedPrecondition) {
		return err
	}
	// It ended by itself a moment ago, and that has not been told yet.
	select {
	case <-gone:
		return m.Supervisor.Forget(ctx, p.id)
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of pause: %w", ctx.Err())
	}
}

// claimPod gives a pod to its caller: recorded before the answer, visible with it.
func (m *Manager) claimPod(id string) error {
	p, err := m.anyPod(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.visible:
		return nil
	case p.record.State != Ready || p.abandoned:
		return errs.New(errs.Unavailable, "claim pod sandbox %s: it is %s and going away; ask again", id, p.record.State)
	}
	if next := p.record; !next.Claimed {
		next.Claimed = true
		if err := m.Records.WritePod(&next); err != nil {
			return err
		}
		p.record = next
	}
	p.visible = true
	m.tellOf(p, p.id, eventCreated, eventStarted)
	return nil
}

// abandonPod removes a pod that nobody claimed in time.
func (m *Manager) abandonPod(ctx context.Context, id string) error {
	p, err := m.anyPod(id)
	if err != nil {
		return nil //nolint:nilerr // gone already: nothing to remove
	}
	p.mu.Lock()
	p.abandoned = !p.visible // from here on it cannot be claimed
	abandoned := p.abandoned
	p.mu.Unlock()
	if !abandoned {
		return nil
	}
	return m.remove(ctx, p)
}

// removeLater runs remove for an ID after [Unclaimed], unless the manager closes first.
func (m *Manager) removeLater(id string, remove func(context.Context, string) error) {
	m.background.Go(func() {
		t := time.NewTimer(Unclaimed)
		defer t.Stop()
		select {
		case <-m.ctx.Done():
			return
		case <-t.C:
		}
		if err := remove(m.ctx, id); err != nil {
			m.Log.Error("remove what nobody claimed", "id", id, "error", err)
		}
	})
}

// anyPod finds a pod by its whole ID, visible or not.
func (m *Manager) anyPod(id string) (*Pod, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if p, ok := m.pods[id]; ok {
		return p, nil
	}
	return nil, errs.New(errs.NotFound, "find pod sandbox %q: no such pod sandbox", id)
}

func (m *Manager) allPods() []*Pod {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Collect(maps.Values(m.pods))
}

// dropPod takes a pod off the disk and out of memory. If the disk refuses it is there as before, to be removed once more. That it goes is not
// written: until its record is gone the pod on disk is one that is not ready, and removing it once more finishes this.
func (m *Manager) dropPod(p *Pod) error {
	p.mu.Lock()
	state, visible := p.record.State, p.visible
	p.record.State, p.visible = Removing, false
	p.mu.Unlock()
	if err := errors.Join(os.RemoveAll(m.podState(p.id)), os.RemoveAll(m.podDir(p.id))); err != nil {
		p.mu.Lock()
		p.record.State, p.visible = state, visible
		p.mu.Unlock()
		return err
	}
	m.mu.Lock()
	delete(m.pods, p.id)
	m.mu.Unlock()
	return nil
}

func (m *Manager) podDir(id string) string   { return filepath.Join(m.Root, "pods", id) }
func (m *Manager) podState(id string) string { return filepath.Join(m.State, "pods", id) }

// removeCgroup kills what is left in a cgroup and removes it.
func (m *Manager) removeCgroup(ctx context.Context, path string) error {
	defer m.figures.drop(path)
	g := m.Cgroups.Group(path)
	if err := g.Kill(ctx); err != nil {
		return err
	}
	return g.Remove(ctx)
}
