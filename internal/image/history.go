package image

import (
	"encoding/json"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/errs"
)

// Step is a line of an image's history as its maker wrote it down: nothing says that it is true.
type Step struct {
	// Created is zero where the maker did not say.
	Created            time.Time
	CreatedBy, Comment string
	// Layer is the diffID of the layer that it made, "" if it made none.
	Layer string
	// Size is the unpacked layer's on disk, in bytes.
	Size uint64
}

// History returns how an image was made, base first. A layer that no step claims has a step of its own. NotFound, InvalidArgument: as Resolve.
func (s *Store) History(ref string) ([]Step, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	b, err := s.disk.Blob(e.record.ID)
	if err != nil {
		return nil, errs.As(errs.Internal, err)
	}
	var file v1.ConfigFile
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, errs.New(errs.Internal, "read the config of image %s: %w", e.record.ID, err)
	}
	var steps []Step
	next := 0
	layer := func(step Step) Step {
		if next >= len(e.diffIDs) {
			return step
		}
		step.Layer = e.diffIDs[next]
		if next < len(e.record.Layers) {
			if have := s.layers[e.record.Layers[next].Key]; have != nil {
				step.Size = have.bytes
			}
		}
		next++
		return step
	}
	for _, h := range file.History {
		step := Step{Created: h.Created.Time, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer {
			step = layer(step)
		}
		steps = append(steps, step)
	}
	for next < len(e.diffIDs) {
		steps = append(steps, layer(Step{}))
	}
	return steps, nil
}
