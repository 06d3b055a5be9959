package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"fermata/internal/errs"
)

// StopPodSandbox kills the sandbox's containers, gives its network back and ends its pause. Unknown and stopped sandboxes are fine.
func (m *Manager) StopPodSandbox(ctx context.Context, id string) error {
	p, err := m.findPod(id)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.op.acquire(ctx); err != nil {
		return err
	}
	defer p.op.release()
	return m.stop(ctx, p)
}

// stop is the pipeline of a sandbox's end. It can be run again at any point; each step does only what is left to do. Called with p.op held.
func (m *Manager) stop(ctx context.Context, p *Pod) error {
	p.mu.Lock()
	done := p.stopped || p.record.State == Removing // or removed, while this call waited
	p.mu.Unlock()
	if done {
		return nil
	}
	var detached error
	err := p.journal.perform("stop", []step{
		{"record", func() error {
			m.notePod(p, func(r *PodRecord) bool {
				if r.State == NotReady {
					return false
				}
				r.State, r.Reason = NotReady, "Stopped"
				return true
			})
			return nil // from here on nobody can create or start a container in it: both look at the state under the pod's lock
		}},
		{"containers", func() error { return m.killContainers(ctx, p) }},
		{"network", func() error {
			if detached = m.detach(ctx, p); detached != nil {
				// A network that does not answer must not keep a pod from stopping (SPS-2): it is asked again at removal and by the network's own
				// reconciliation, which frees whatever has no live sandbox.
				m.Log.Error("give back the network of a stopped pod", "pod", p.id, "error", detached)
			}
			return nil
		}},
		{"pause", func() error { return m.endPause(ctx, p) }},
		{"cgroup", func() error { return m.removeCgroup(ctx, p.snapshot().Cgroup) }},
	}...)
	if err != nil {
		return fmt.Errorf("stop pod sandbox %s: %w", p.id, err)
	}
	p.mu.Lock()
	p.stopped = detached == nil
	p.mu.Unlock()
	m.tellStopped(p)
	return nil
}

// killContainers kills every container of a pod at once and waits until nothing of them runs.
func (m *Manager) killContainers(ctx context.Context, p *Pod) error {
	var wg sync.WaitGroup
	all := p.allContainers()
	failed := make([]error, len(all))
	for i, c := range all {
		wg.Go(func() { failed[i] = m.kill(ctx, c) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// detach gives the network back, once.
func (m *Manager) detach(ctx context.Context, p *Pod) error {
	if !p.snapshot().Attached {
		return nil
	}
	if err := m.Network.Detach(ctx, p.id); err != nil {
		return err
	}
	m.notePod(p, func(r *PodRecord) bool { r.Attached = false; return true })
	return nil
}

// RemovePodSandbox stops the sandbox, removes its containers and forgets it. Unknown is fine.
func (m *Manager) RemovePodSandbox(ctx context.Context, id string) error {
	p, err := m.findPod(id)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.remove(ctx, p)
}

// remove is RemovePodSandbox for any pod, visible or not.
func (m *Manager) remove(ctx context.Context, p *Pod) error {
	if err := p.op.acquire(ctx); err != nil {
		return err
	}
	defer p.op.release()
	if p.snapshot().State == Removing {
		return nil // another call did it while this one waited
	}
	if err := m.stop(ctx, p); err != nil {
		return err
	}
	visible := p.isVisible()
	err := p.journal.perform("remove", []step{
		{"containers", func() error {
			for _, c := range p.allContainers() {
				if err := m.removeContainer(ctx, c); err != nil {
					return err
				}
			}
			return nil
		}},
		{"network", func() error {
			if err := m.detach(ctx, p); err != nil {
				m.Log.Error("give back the network of a removed pod; its reconciliation will", "pod", p.id, "error", err)
			}
			return nil
		}},
		{"record", func() error { return m.dropPod(p) }},
	}...)
	if err != nil {
		return fmt.Errorf("remove pod sandbox %s: %w", p.id, err)
	}
	m.remember(p, nil)
	if visible {
		m.tellNow(p, p.id, eventDeleted)
	}
	return nil
}

func (p *Pod) allContainers() []*Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Container, 0, len(p.containers))
	for _, c := range p.containers {
		all = append(all, c)
	}
	return all
}
