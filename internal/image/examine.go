package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	"fermata/internal/errs"
)

// Difference is something in the store that is not as its records say.
type Difference struct {
	// Object is an image or a layer.
	Object string
	// What is wrong, and what mends it.
	What, Remedy string
	// Mend is nil where only a person can do it.
	Mend func(context.Context) error
}

// Examine compares the records with what is on the disk, without reading layers' contents. It changes nothing.
func (s *Store) Examine() ([]Difference, error) {
	var found []Difference
	for _, p := range s.problems {
		found = append(found, Difference{Object: "image store", What: p, Remedy: "pull the image again, then remove what was set aside"})
	}
	keys, err := s.disk.Layers()
	if err != nil {
		return found, err
	}
	onDisk := map[string]bool{}
	for _, k := range keys {
		if onDisk[k] = true; s.knowsLayer(k) || s.disk.Broken() {
			continue
		}
		found = append(found, Difference{Object: "layer " + k, What: "belongs to no image", Remedy: "it is removed", Mend: func(context.Context) error { return s.removeStray(k) }})
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, e := range s.images {
		for _, ref := range e.record.Layers {
			if _, err := os.Stat(s.disk.LayerDir(ref.Key)); errors.Is(err, os.ErrNotExist) {
				found = append(found, missing(e, "layer "+ref.Key))
			}
		}
		if _, err := s.disk.Blob(id); err != nil {
			found = append(found, missing(e, "its configuration"))
		}
	}
	return found, nil
}

func missing(e *entry, what string) Difference {
	name := e.record.ID
	if len(e.record.Names) > 0 {
		name = e.record.Names[0].Repository + ":" + e.record.Names[0].Tag
	}
	return Difference{
		Object: "image " + name, What: fmt.Sprintf("%s is not on the disk", what),
		Remedy: "remove the image and pull it again (crictl rmi, crictl pull)",
	}
}

// knowsLayer says whether a layer is in use or being made.
func (s *Store) knowsLayer(key string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.layers[key] != nil || s.making[key] != nil
}

func (s *Store) removeStray(key string) error {
	return s.removing(func() ([]string, error) {
		if s.knowsLayer(key) {
			return nil, errs.New(errs.FailedPrecondition, "remove layer %s: it is in use now", key)
		}
		away, err := s.disk.TakeLayer(key)
		if away == "" {
			return nil, err
		}
		return []string{away}, err
	})
}
