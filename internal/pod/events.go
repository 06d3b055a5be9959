package pod

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// eventBacklog is how far a reader of events may be behind, in statuses: one an event for the sandbox and one for each of the pod's containers.
// A few megabytes; a node with 500 pods starting at once is far below it.
const eventBacklog = 1 << 14

// events tells readers what becomes of pods and containers (EVT-1). Each event is made under its pod's lock, together with the change that it tells
// of, so that the events of a pod come in the order of its life and show it as it was at that moment. Without readers nothing is made.
//
// A reader never holds anybody up (EVT-2): what it has not taken waits in a queue of its own, and one that is too far behind is ended with an
// error instead of losing events it would never know of. It subscribes again and lists, as after a daemon's restart; old events are not told again.
type events struct {
	readers atomic.Int32 // len(all), to be asked without the lock
	mu      sync.Mutex
	all     map[*Subscription]struct{}
	ended   error // no more readers, and why
}

// Subscription is one reader of events. Close it.
type Subscription struct {
	hub *events
	// more has a value when there is something to take since it was last empty.
	more chan struct{}

	// hub.mu guards these
	queue  []*runtimeapi.ContainerEventResponse
	weight int
	err    error
}

// Subscribe starts telling a new reader of events from now on.
func (m *Manager) Subscribe() *Subscription {
	h := &m.events
	s := &Subscription{hub: h, more: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended != nil {
		s.end(h.ended)
		return s
	}
	if h.all == nil {
		h.all = map[*Subscription]struct{}{}
	}
	h.all[s] = struct{}{}
	h.readers.Store(int32(len(h.all)))
	return s
}

// EndEvents ends every reader, now and later: the daemon is going away.
func (m *Manager) EndEvents() {
	h := &m.events
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = errs.New(errs.Unavailable, "container events: the daemon is being stopped")
	for s := range h.all {
		s.end(h.ended)
	}
}

// Next waits for the next event. After an error there are no more; what came before a reader was ended by [Manager.EndEvents] is still given.
func (s *Subscription) Next(ctx context.Context) (*runtimeapi.ContainerEventResponse, error) {
	for {
		if e, err := s.take(); e != nil || err != nil {
			return e, err
		}
		select {
		case <-s.more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Subscription) take() (*runtimeapi.ContainerEventResponse, error) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, s.err
	}
	e := s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	s.weight -= weight(e)
	return e, nil
}

// Close ends the subscription; it may be closed again.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.queue, s.weight = nil, 0
	s.end(errs.New(errs.Canceled, "container events: the reader left"))
}

// end takes the reader off the list; hub.mu is held.
func (s *Subscription) end(err error) {
	if s.err == nil {
		s.err = err
	}
	delete(s.hub.all, s)
	s.hub.readers.Store(int32(len(s.hub.all)))
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func weight(e *runtimeapi.ContainerEventResponse) int { return 1 + len(e.ContainersStatuses) }

// tell gives every reader an event. It does not wait for any.
func (h *events) tell(e *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.all {
		if s.weight+weight(e) > eventBacklog {
			s.queue, s.weight = nil, 0
			s.end(errs.New(errs.ResourceExhausted, "container events: the reader is too far behind; subscribe again and list"))
			continue
		}
		s.queue = append(s.queue, e)
		s.weight += weight(e)
		s.wake()
	}
}

const (
	eventCreated = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	eventStarted = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	eventStopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	eventDeleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
)

// tellOf tells of something that became of id, the pod or a container of it, with everything as it is now; p.mu is held.
func (m *Manager) tellOf(p *Pod, id string, types ...runtimeapi.ContainerEventType) {
	if m.events.readers.Load() == 0 {
		return
	}
	for _, t := range types {
		e := &runtimeapi.ContainerEventResponse{
			ContainerId: id, ContainerEventType: t, CreatedAt: time.Now().UnixNano(), ContainersStatuses: p.containerStatuses(),
		}
		if p.visible {
			e.PodSandboxStatus = sandboxStatus(&p.record)
		}
		m.events.tell(e)
	}
}

// tellChange tells what a container's new state means, if it is another and anybody may know of it; c.pod.mu is held.
func (m *Manager) tellChange(c *Container, before State) {
	if c.record.State == before || !c.visible || !c.pod.visible {
		return
	}
	switch c.record.State {
	case StateRun:
		m.tellOf(c.pod, c.id, eventStarted)
	case Exited:
		m.tellOf(c.pod, c.id, eventStopped)
	}
}

// tellStopped tells, once, that a sandbox has ended: when a stop is through, or its pause ended by itself.
func (m *Manager) tellStopped(p *Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.visible && !p.stopTold {
		m.tellOf(p, p.id, eventStopped)
	}
	p.stopTold = true
}

// tellNow is tellOf without the lock held.
func (m *Manager) tellNow(p *Pod, id string, t runtimeapi.ContainerEventType) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.tellOf(p, id, t)
}

// containerStatuses describes the pod's visible containers, oldest first; p.mu is held.
func (p *Pod) containerStatuses() []*runtimeapi.ContainerStatus {
	var all []*runtimeapi.ContainerStatus
	for _, c := range p.containers {
		if c.visible {
			all = append(all, containerStatus(c.record))
		}
	}
	slices.SortFunc(all, func(a, b *runtimeapi.ContainerStatus) int { return int(a.CreatedAt - b.CreatedAt) })
	return all
}
