package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fermata/internal/errs"
)

// unknownExit is how a process ended of which nobody knows: the exit code of the CRI's "Unknown" in every runtime.
const unknownExit = 255

// Recover takes in what an earlier daemon left: records, and the processes the supervisor holds. What was half made is undone, what ran runs on,
// what ended meanwhile is folded in with its true exit. Broken records are named in the log and cost nobody else anything.
func (m *Manager) Recover(ctx context.Context) error {
	stored, broken, err := m.Records.Load()
	if err != nil {
		return fmt.Errorf("recover pods: %w", err)
	}
	for _, b := range broken {
		m.Log.Error("a record cannot be read and was set aside; its pod is not known any more", "error", b)
	}
	held, err := m.Supervisor.Processes(ctx)
	if err != nil {
		return fmt.Errorf("recover pods: %w", err)
	}
	running := make(map[string]Running, len(held))
	for _, h := range held {
		running[h.ID] = h
	}
	for _, s := range stored {
		m.adopt(s, running)
	}
	m.placeAll() // settling waits for exits
	for _, s := range stored {
		if err := m.settleInTime(ctx, m.pods[s.Pod.ID]); err != nil {
			m.Log.Error("finish what an earlier daemon began", "pod", s.Pod.ID, "error", err)
		}
	}
	return m.endStrays(ctx, running)
}

// placeAll gives the exits that came before the records were read to whom they belong, and those to come from now on.
func (m *Manager) placeAll() {
	m.mu.Lock()
	m.recovered = true
	unplaced := m.unplaced
	m.unplaced = nil
	m.mu.Unlock()
	for _, e := range unplaced {
		m.place(e)
	}
}

// Resync brings every pod to what a new supervisor holds, after the old one died: what it does not know of has ended as far as anybody can tell.
func (m *Manager) Resync(ctx context.Context) error {
	held, err := m.Supervisor.Processes(ctx)
	if err != nil {
		return fmt.Errorf("resync pods: %w", err)
	}
	running := make(map[string]Running, len(held))
	for _, h := range held {
		running[h.ID] = h
	}
	var failed []error
	for _, p := range m.allPods() {
		failed = append(failed, m.resyncPod(ctx, p, running))
	}
	return errors.Join(append(failed, m.endStrays(ctx, running))...)
}

func (m *Manager) resyncPod(ctx context.Context, p *Pod, running map[string]Running) error {
	if h, ok := running[p.id]; !ok || h.Exit != nil {
		p.mu.Lock()
		gone := p.pauseGone
		p.pauseGone = nil
		p.mu.Unlock()
		if gone != nil {
			close(gone)
		}
	}
	if err := p.op.acquire(ctx); err != nil { // what is under way ends first, well or not
		return err
	}
	m.settleContainers(p, running)
	lost := p.snapshot().State == Ready && p.pauseGone == nil
	p.op.release()
	if !lost {
		return nil
	}
	return m.settle(ctx, p)
}

// adopt puts one stored pod into memory as it was.
func (m *Manager) adopt(s StoredPod, running map[string]Running) {
	p := &Pod{id: s.Pod.ID, op: newLock(), record: *s.Pod, containers: map[string]*Container{}, visible: s.Pod.Claimed}
	if h, ok := running[p.id]; ok && h.Exit == nil {
		p.pauseGone = make(chan struct{})
	}
	m.pods[p.id] = p
	for _, r := range s.Containers {
		c := &Container{id: r.ID, pod: p, op: newLock(), record: *r, visible: r.Claimed}
		if r.State == StateRun || r.State == Starting {
			c.gone = make(chan struct{})
		}
		p.containers[c.id] = c
		m.containers[c.id] = c
		if r.State != Removing {
			if err := m.Images.Hold(r.ImageID, c.id); err != nil && r.ImageID != "" {
				m.Log.Warn("keep the image of a container", "container", c.id, "image", r.ImageID, "error", err)
			}
		}
	}
	m.settleContainers(p, running)
}

// settleContainers brings each container's record to what the supervisor says.
func (m *Manager) settleContainers(p *Pod, running map[string]Running) {
	for _, c := range p.allContainers() {
		r := c.snapshot()
		h, held := running[c.id]
		switch {
		case r.State != StateRun && r.State != Starting:
		case held && h.Exit == nil && r.State == StateRun:
		case held && h.Exit == nil: // launched, and the daemon died before it could say so
			m.noteContainer(c, func(r *ContainerRecord) {
				r.State, r.Started, r.Process = StateRun, time.Now(), Recorded{PID: h.PID, Inode: h.Inode}
			})
		case held:
			m.foldExit(c, *h.Exit)
		default:
			m.lost(c, p.record.BootID != m.BootID)
		}
	}
}

// lost records the end of a container of which nobody knows the exit.
func (m *Manager) lost(c *Container, rebooted bool) {
	message := "the process is gone and nobody saw how it ended: daemon and keeper were both down"
	if rebooted {
		message = "the machine was restarted"
	}
	m.foldExit(c, Exit{ID: c.id, Code: unknownExit, Finished: time.Now()})
	m.noteContainer(c, func(r *ContainerRecord) { r.Reason, r.Message = "Unknown", message })
}

// settleLimit bounds what one pod may cost the start of a daemon: a pod that cannot be settled must not keep the others from being served.
const settleLimit = 10 * time.Second

func (m *Manager) settleInTime(ctx context.Context, p *Pod) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	return m.settle(ctx, p)
}

// settle finishes or undoes what was half done with a pod.
func (m *Manager) settle(ctx context.Context, p *Pod) error {
	r := p.snapshot()
	switch {
	case r.State == Preparing || r.State == Removing:
		p.mu.Lock()
		p.visible = false
		p.mu.Unlock()
		return m.finishRemoval(ctx, p)
	case r.State == Ready && p.pauseGone == nil:
		m.notePod(p, func(r *PodRecord) {
			r.State, r.Reason, r.Message = NotReady, "PauseEnded", "pause, the first process of the pod, ended while no daemon ran"
			if r.BootID != m.BootID {
				r.Reason, r.Message = "Rebooted", "the machine was restarted"
			}
		})
		return m.detach(ctx, p)
	case !r.Claimed:
		m.removeLater(p.id, m.abandonPod)
	}
	var failed []error
	for _, c := range p.allContainers() {
		switch cr := c.snapshot(); {
		case cr.State == Preparing || cr.State == Removing:
			failed = append(failed, m.Images.Release(c.id), m.dropContainer(c))
		case !cr.Claimed:
			m.removeLater(c.id, m.abandonContainer)
		}
	}
	return errors.Join(failed...)
}

// finishRemoval takes a pod away that was being made or removed when the daemon died.
func (m *Manager) finishRemoval(ctx context.Context, p *Pod) error {
	m.notePod(p, func(r *PodRecord) {
		if r.State == Preparing {
			r.State = NotReady
		}
	})
	if p.snapshot().State == NotReady {
		return m.remove(ctx, p)
	}
	return m.dropPod(p)
}

// endStrays kills what the supervisor holds and no record names.
func (m *Manager) endStrays(ctx context.Context, running map[string]Running) error {
	var failed []error
	for id, h := range running {
		_, podErr := m.anyPod(id)
		_, containerErr := m.anyContainer(id)
		if podErr == nil || containerErr == nil {
			continue
		}
		m.Log.Warn("a process without a record is ended", "id", id, "pid", h.PID)
		if h.Exit == nil {
			if err := m.Supervisor.Signal(ctx, id, 9); err != nil && !errs.Is(err, errs.NotFound) {
				failed = append(failed, err)
			}
			continue // its exit comes by event and is forgotten then
		}
		failed = append(failed, m.Supervisor.Forget(ctx, id))
	}
	return errors.Join(failed...)
}
