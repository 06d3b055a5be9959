package pod

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// How much is remembered of what is gone: an hour, but not more than so many pods, nor of one pod more than so many containers.
const (
	storyLife     = time.Hour
	storiesKept   = 256
	pastOfOnePod  = 16
	createFailed  = "CreateFailed"
	containerGone = "Removed"
)

// Story is all that is known of a pod that is there, is being made, or is gone.
type Story struct {
	Pod PodRecord
	// Containers are those there are and were; a gone one's state is Removing. Their Stages, and the pod's, are up to this moment.
	Containers []ContainerRecord
	// Gone is when it was removed or could not be made; zero while it is there.
	Gone time.Time
}

// history is what is remembered of pods that are gone, oldest first.
type history struct {
	mu      sync.Mutex
	stories []Story
}

func (h *history) add(s Story) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stories = append(h.fresh(), s)
	h.stories = h.stories[max(0, len(h.stories)-storiesKept):]
}

// fresh are the stories that are not too old. The caller holds h.mu.
func (h *history) fresh() []Story {
	return slices.DeleteFunc(h.stories, func(s Story) bool { return time.Since(s.Gone) > storyLife })
}

func (h *history) all() []Story {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stories = h.fresh()
	return slices.Clone(h.stories)
}

// story is what is known of a pod now.
func (p *Pod) story() Story {
	p.mu.Lock()
	s := Story{Pod: p.record, Containers: slices.Clone(p.past)}
	for _, c := range p.containers {
		r := c.record
		r.Stages = c.journal.snapshot()
		s.Containers = append(s.Containers, r)
	}
	p.mu.Unlock()
	s.Pod.Stages = p.journal.snapshot()
	slices.SortFunc(s.Containers, func(a, b ContainerRecord) int { return a.Created.Compare(b.Created) })
	return s
}

// Stories tells of every pod there is, visible or not, and of those that are gone for less than an hour, newest first. From memory only.
func (m *Manager) Stories() []Story {
	all := m.history.all()
	for _, p := range m.allPods() {
		all = append(all, p.story())
	}
	slices.SortStableFunc(all, func(a, b Story) int { return b.Pod.Created.Compare(a.Pod.Created) })
	return all
}

// remember keeps the story of a pod that goes. why is an error if it could not be made.
func (m *Manager) remember(p *Pod, why error) {
	s := p.story()
	s.Gone = time.Now()
	if why != nil {
		s.Pod.Reason, s.Pod.Message = createFailed, why.Error()
	}
	m.history.add(s)
}

// rememberContainer keeps what is known of a container that goes in its pod's story. The caller holds the pod's mutex.
func (p *Pod) rememberContainer(c *Container) {
	r := c.record
	r.Stages = c.journal.snapshot()
	if r.Reason == "" && r.State == Preparing {
		r.Reason = createFailed
	} else if r.Reason == "" {
		r.Reason = containerGone
	}
	r.State = Removing
	p.past = append(p.past, r)
	p.past = p.past[max(0, len(p.past)-pastOfOnePod):]
}

// Failed says that the pod or container could not be made.
func Failed(reason string) bool { return reason == createFailed }

// Title is how people know the pod.
func (s *Story) Title() string { return strings.TrimSuffix(podTitle(&s.Pod), " ("+short(s.Pod.ID)+")") }
