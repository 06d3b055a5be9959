package pod

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// renewLimit bounds the launch of a pause in another's place.
const renewLimit = 30 * time.Second

// renewTries is how often it is tried again where the supervisor is not ready for it, renewPause apart.
const (
	renewTries = 10
	renewPause = 20 * time.Millisecond
)

// pauseEnded takes in the end of a pod's pause. A pod that was to live goes on: its namespaces are held without pause, and another is put into them. Only
// where containers live in its PID namespace it is the end of the pod: the kernel kills all of them with the namespace's first process.
func (m *Manager) pauseEnded(p *Pod, e Exit) {
	p.mu.Lock()
	if e.PID != 0 && e.PID == p.pauseEnded { // told again
		p.mu.Unlock()
		return
	}
	p.pauseEnded = e.PID
	gone := p.pauseGone
	p.pauseGone = nil
	renew := p.record.State == Ready && !sharesPID(p.record.Config.M)
	if renew {
		p.renewing++
	}
	p.mu.Unlock()
	if gone != nil {
		defer close(gone)
	}
	if renew {
		m.Log.Warn("pause has ended; another takes its place", "pod", p.id, "how", howPauseEnded(e))
		m.background.Go(func() { m.renewPause(p, e) })
		return
	}
	message := howPauseEnded(e)
	if sharesPID(p.record.Config.M) {
		message += "; it was the first process of the PID namespace that the pod shares, and the kernel ends all others with it"
	}
	m.pauseLost(p, message)
}

// pauseGone notes that nobody holds a pod's pause, or anything of it.
func (m *Manager) pauseGone(p *Pod) {
	p.mu.Lock()
	gone := p.pauseGone
	p.pauseGone = nil
	p.mu.Unlock()
	if gone != nil {
		defer close(gone)
	}
	m.pauseLost(p, howPauseEnded(Exit{Unknown: true}))
}

// pauseLost notes that a pod has no pause and gets none.
func (m *Manager) pauseLost(p *Pod, message string) {
	unwanted := m.notePod(p, func(r *PodRecord) bool {
		if r.State != Ready && r.State != Preparing {
			return false
		}
		r.State, r.Reason, r.Message = NotReady, "PauseEnded", message
		return true
	})
	if unwanted {
		m.Log.Warn("a pod is not ready: its pause has ended", "pod", p.id, "how", message)
		m.tellStopped(p)
	}
}

// renewPause launches a pause into the namespaces of one that has ended.
func (m *Manager) renewPause(p *Pod, e Exit) {
	ctx, cancel := context.WithTimeout(m.ctx, renewLimit)
	defer cancel()
	defer func() {
		p.mu.Lock()
		p.renewing--
		p.mu.Unlock()
	}()
	began := time.Now()
	if p.op.acquire(ctx) != nil { // this daemon ends; the next one finds what there is to do
		return
	}
	defer p.op.release()
	r := p.snapshot()
	if r.State != Ready { // stopped meanwhile
		return
	}
	group, err := m.Cgroups.Create(r.Cgroup)
	if err == nil {
		err = m.startPause(ctx, p, &r, group, true)
	}
	// The supervisor may be replaced meanwhile, and the one that follows must have seen the end of pause for itself.
	for tries := 0; (errs.Is(err, errs.Unavailable) || errs.Is(err, errs.FailedPrecondition)) && tries < renewTries && ctx.Err() == nil; tries++ {
		time.Sleep(renewPause)
		err = m.startPause(ctx, p, &r, group, true)
	}
	if err != nil {
		m.pauseLost(p, fmt.Sprintf("%s; another could not take its place: %v", howPauseEnded(e), err))
		return
	}
	m.notePod(p, func(now *PodRecord) bool {
		now.Pause, now.Reason, now.Message = r.Pause, "PauseReplaced", fmt.Sprintf("%s, and was replaced at %s", howPauseEnded(e), time.Now().UTC().Format(time.RFC3339))
		return true
	})
	m.Log.Warn("another pause is in the pod's namespaces", "pod", p.id, "pid", r.Pause.PID, "took", time.Since(began))
	m.tellNow(p, p.id, eventStarted)
}

// withoutPause reports whether the pod has no pause and gets none.
func (p *Pod) withoutPause() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pauseGone == nil && p.renewing == 0
}

// sharesPID reports whether pause is the first process of the pod's containers' PID namespace.
func sharesPID(config *runtimeapi.PodSandboxConfig) bool {
	return namespaces(config).GetPid() == runtimeapi.NamespaceMode_POD
}

// howPauseEnded names the signal and, as far as there are means to know, its sender.
func howPauseEnded(e Exit) string {
	switch {
	case e.Unknown:
		return "pause, the first process of the pod, has ended, and nobody saw how"
	case e.OOMKilled:
		return fmt.Sprintf("pause, the first process of the pod, was killed by signal %d (%v), sent by the kernel for want of memory in its cgroup", int(e.Signal), e.Signal)
	case e.Signal != 0:
		return fmt.Sprintf("pause, the first process of the pod, was killed by signal %d (%v); the kernel does not tell who sent it", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("pause, the first process of the pod, exited with code %d", e.Code)
}
