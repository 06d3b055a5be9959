package pod

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"fermata/internal/errs"
	"fermata/internal/undo"
)

// Stage is one named step of a pipeline: what a timeline draws and an error names.
type Stage struct {
	// Pipeline is run, stop, remove, create or start.
	Pipeline string    `json:"pipeline"`
	Name     string    `json:"name"`
	Start    time.Time `json:"start"`
	// End is zero while the step is under way.
	End   time.Time `json:"end,omitzero"`
	Error string    `json:"error,omitempty"`
	// Culprit is who is to blame for the error, as far as that is known: "CNI plugin bridge".
	Culprit string `json:"culprit,omitempty"`
}

// step is one named step of a pipeline.
type step struct {
	name string
	do   func() error
}

// journal is what the pipelines of one pod or container did: each step with its times, of each pipeline the last run. It is written with the
// record when that changes next, and says at any time what is under way.
type journal struct {
	mu     sync.Mutex
	stages []Stage
}

// perform runs the steps of a pipeline in their order. The first error, named by its step, ends it. A panic in a step is an error of that step: what
// was done before is undone as after any other.
func (j *journal) perform(pipeline string, steps ...step) error {
	j.mu.Lock()
	j.stages = slices.DeleteFunc(slices.Clone(j.stages), func(s Stage) bool { return s.Pipeline == pipeline })
	j.mu.Unlock()
	for _, s := range steps {
		if err := j.one(pipeline, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (j *journal) one(pipeline string, s step) error {
	j.mu.Lock()
	// Never in place: snapshots share the array.
	j.stages = append(slices.Clip(j.stages), Stage{Pipeline: pipeline, Name: s.name, Start: time.Now()})
	j.mu.Unlock()
	err := undo.Step(pipeline+"/"+s.name, s.do)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stages = slices.Clone(j.stages)
	for i := len(j.stages) - 1; i >= 0; i-- {
		if at := &j.stages[i]; at.Pipeline == pipeline && at.Name == s.name {
			at.End = time.Now()
			if err != nil {
				at.Error, at.Culprit = err.Error(), errs.CulpritOf(err).String()
			}
			break
		}
	}
	return err
}

// snapshot returns what is known so far; it is never changed.
func (j *journal) snapshot() []Stage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stages
}
