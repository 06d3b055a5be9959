package explain

import (
	"slices"

	"fermata/internal/errs"
	"fermata/internal/pod"
)

// Timeline is every stage of a pod and its containers, in the order of their beginning.
type Timeline struct {
	Title, ID string
	Stages    []TimelineStage
}

// TimelineStage is a stage and whose it is.
type TimelineStage struct {
	// Container is its name, "" for the pod's own.
	Container string
	pod.Stage
}

// Timeline tells of the newest pod of a name, also one that is gone for less than an hour.
func (e *Explainer) Timeline(name string) (*Timeline, error) {
	for _, s := range e.Stories.Stories() {
		if isPod(&s, name) {
			return timelineOf(&s), nil
		}
	}
	return nil, errs.New(errs.NotFound, "timeline of %q: no pod of that name, now or within the last hour", name)
}

func timelineOf(s *pod.Story) *Timeline {
	t := &Timeline{Title: s.Title(), ID: s.Pod.ID}
	for _, stage := range s.Pod.Stages {
		t.Stages = append(t.Stages, TimelineStage{"", stage})
	}
	for _, c := range s.Containers {
		for _, stage := range c.Stages {
			t.Stages = append(t.Stages, TimelineStage{c.Config.M.GetMetadata().GetName(), stage})
		}
	}
	slices.SortStableFunc(t.Stages, func(a, b TimelineStage) int { return a.Start.Compare(b.Start) })
	return t
}
