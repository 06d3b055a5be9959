package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	for id, h := range running {
		if p, err := m.anyPod(id); err == nil && h.Exit != nil {
			m.pauseEnded(p, *h.Exit)
		}
	}
	for _, s := range stored {
		p, err := m.anyPod(s.Pod.ID)
		if err != nil {
			continue
		}
		if err := m.settleInTime(ctx, p); err != nil {
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
	m.resyncExecs(ctx, running)
	return errors.Join(append(failed, m.endStrays(ctx, running))...)
}

// resyncPod takes no operation's lock where a process is known to have been launched: an operation may hold it while it waits for an end of which
// the old supervisor can tell nobody any more. What is being launched right now is looked at when that is through.
func (m *Manager) resyncPod(ctx context.Context, p *Pod, running map[string]Running) error {
	p.mu.Lock()
	pause, launched := p.pauseGone != nil, p.record.Pause.PID != 0
	p.mu.Unlock()
	var failed []error
	switch {
	case pause && launched:
		failed = append(failed, m.checkPause(ctx, p, running))
	case pause:
		m.after(p.op, func(ctx context.Context) error { return m.checkPause(ctx, p, nil) })
	}
	for _, c := range p.allContainers() {
		switch c.snapshot().State {
		case StateRun:
			failed = append(failed, m.checkContainer(ctx, c, running))
		case Starting:
			m.after(c.op, func(ctx context.Context) error { return m.checkContainer(ctx, c, nil) })
		}
	}
	return errors.Join(failed...)
}

// after does something in the background once an operation is through.
func (m *Manager) after(op lock, do func(context.Context) error) {
	m.background.Go(func() {
		err := op.acquire(m.ctx)
		if err == nil {
			op.release()
			err = do(m.ctx)
		}
		if err != nil && m.ctx.Err() == nil {
			m.Log.Error("bring a process that was being launched to what the new keeper holds", "error", err)
		}
	})
}

func (m *Manager) checkPause(ctx context.Context, p *Pod, running map[string]Running) error {
	p.mu.Lock()
	has := p.pauseGone != nil
	p.mu.Unlock()
	if !has {
		return nil
	}
	unknown, err := m.unknown(ctx, p.id, running)
	if unknown {
		m.pauseGone(p)
	}
	return err
}

func (m *Manager) checkContainer(ctx context.Context, c *Container, running map[string]Running) error {
	unknown, err := m.unknown(ctx, c.id, running)
	if unknown && c.snapshot().State == StateRun {
		m.lost(c, false)
	}
	return err
}

// resyncExecs ends the waiting for commands of which the new supervisor knows nothing; those being launched look for themselves.
func (m *Manager) resyncExecs(ctx context.Context, running map[string]Running) {
	m.mu.Lock()
	launched := map[string]*execution{}
	for id, x := range m.execs {
		if x.resynced = true; x.launched {
			launched[id] = x
		}
	}
	m.mu.Unlock()
	for id, x := range launched {
		m.checkExec(ctx, id, x, running)
	}
}

func (m *Manager) checkExec(ctx context.Context, id string, x *execution, running map[string]Running) {
	// Also where it cannot be asked: the command is gone for whoever waits, and waiting longer helps nobody.
	if unknown, err := m.unknown(ctx, id, running); unknown || err != nil {
		x.lose()
	}
}

// unknown asks for one process of which a list says nothing: it may have been launched since.
func (m *Manager) unknown(ctx context.Context, id string, running map[string]Running) (bool, error) {
	if _, ok := running[id]; ok { // an end of it is told by event
		return false, nil
	}
	fd, err := m.Supervisor.Pidfd(ctx, id)
	fd.Close()
	switch {
	case err == nil, errs.Is(err, errs.FailedPrecondition): // being launched, or its end is being told
		return false, nil
	case errs.Is(err, errs.NotFound):
		return true, nil
	}
	return false, err
}

// adopt puts one stored pod into memory as it was.
func (m *Manager) adopt(s StoredPod, running map[string]Running) {
	p := &Pod{id: s.Pod.ID, op: newLock(), record: *s.Pod, containers: map[string]*Container{}, visible: s.Pod.Claimed, stopTold: s.Pod.State != Ready}
	if h, ok := running[p.id]; ok && h.Exit == nil {
		p.pauseGone = make(chan struct{})
	}
	p.journal.stages = s.Pod.Stages
	m.pods[p.id] = p
	for _, r := range s.Containers {
		// Unclean: that its end was recorded does not say that it was cleaned up after, and looking once more at removal costs little.
		c := &Container{id: r.ID, pod: p, op: newLock(), execGate: newLock(), record: *r, visible: r.Claimed, unclean: true}
		c.journal.stages = r.Stages
		if _, held := running[r.ID]; r.State == Starting && !held && p.record.BootID == m.BootID {
			c.record.State = Created // the supervisor keeps all it launched, so this was not: the start can be asked for again
			r = &c.record
			if err := m.renewWork(r); err != nil {
				m.Log.Error("make a container startable again", "container", r.ID, "error", err)
			}
		}
		if r.State == StateRun || r.State == Starting {
			c.gone = make(chan struct{})
		}
		p.containers[c.id] = c
		m.containers[c.id] = c
		if r.State != Removing {
			if err := m.holdImages(r); err != nil && r.ImageID != "" {
				m.Log.Warn("keep the image of a container", "container", c.id, "image", r.ImageID, "error", err)
			}
		}
	}
	m.settleContainers(p, running)
}

// renewWork makes the overlay's work directory anew: one that was mounted volatile is refused by the next mount (EINVAL) until it is, because
// after a power cut its upper directory could not be trusted. Here nothing was ever written to it.
func (m *Manager) renewWork(r *ContainerRecord) error {
	for _, dir := range []string{"upper", "work"} {
		path := filepath.Join(m.containerDir(r), dir)
		if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o755)); err != nil {
			return err
		}
	}
	return nil
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
			m.noteContainer(c, func(r *ContainerRecord) bool {
				r.State, r.Started, r.Process = StateRun, h.Started, Recorded{PID: h.PID, Inode: h.Inode}
				return true
			})
		case held:
			m.foldExit(c, *h.Exit, exitReason(*h.Exit), h.Exit.Note)
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
	m.foldExit(c, Exit{ID: c.id, Code: unknownExit, Finished: time.Now()}, "Unknown", message)
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
	case r.State == Ready && p.withoutPause():
		if !r.Claimed { // and nobody will
			return m.remove(ctx, p)
		}
		m.notePod(p, func(r *PodRecord) bool {
			r.State, r.Reason, r.Message = NotReady, "PauseEnded", "pause, the first process of the pod, ended while no daemon ran"
			if r.BootID != m.BootID {
				r.Reason, r.Message = "Rebooted", "the machine was restarted"
			}
			return true
		})
		m.tellStopped(p)
		return m.detach(ctx, p)
	case !r.Claimed:
		m.removeLater(p.id, m.abandonPod)
	}
	var failed []error
	for _, c := range p.allContainers() {
		switch cr := c.snapshot(); {
		case cr.State == Preparing || cr.State == Removing:
			failed = append(failed, m.releaseImages(&cr), m.dropContainer(c))
		case !cr.Claimed:
			m.removeLater(c.id, m.abandonContainer)
		}
	}
	return errors.Join(failed...)
}

// finishRemoval takes a pod away that was being made or removed when the daemon died.
func (m *Manager) finishRemoval(ctx context.Context, p *Pod) error {
	m.notePod(p, func(r *PodRecord) bool {
		if r.State == Preparing {
			r.State = NotReady
		}
		return true
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
		m.mu.RLock()
		_, isExec := m.execs[id] // one asked for since the supervisor was replaced
		m.mu.RUnlock()
		if podErr == nil || containerErr == nil || isExec {
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
