package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fermata/internal/errs"
	"fermata/internal/image/store"
	"fermata/internal/undo"
)

// Hold keeps an image's layers, whatever becomes of the image, until the user (a container's id, say) releases them. It lives in memory: after a restart
// the daemon holds again, before it calls [Store.Collect]. A user may hold one image; holding the same again changes nothing.
func (s *Store) Hold(imageID, user string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[imageID] == nil {
		return errs.New(errs.NotFound, "hold image %s for %s: not in the store", imageID, user)
	}
	if held, ok := s.holds[user]; ok && held != imageID {
		return errs.New(errs.AlreadyExists, "hold image %s for %s: it holds image %s", imageID, user, held)
	}
	s.holds[user] = imageID
	return nil
}

// Release ends a user's hold; one that holds nothing is no error. If the image was removed meanwhile, its space is free on return.
func (s *Store) Release(user string) error {
	return s.removing(func() ([]string, error) {
		s.mu.Lock()
		id, ok := s.holds[user]
		delete(s.holds, user)
		e := s.images[id]
		gone := ok && e != nil && e.record.Removed && !s.held(id)
		s.mu.Unlock()
		if !gone {
			return nil, nil
		}
		return s.drop(e)
	})
}

// removing holds commit while do makes things disappear, and deletes what is left of them afterwards: that takes long, and others may go on.
func (s *Store) removing(do func() (doomed []string, err error)) error {
	var doomed []string
	err := errs.Guard(func() (err error) {
		s.commit.Lock()
		defer s.commit.Unlock()
		doomed, err = do()
		return err
	})
	return errors.Join(err, s.discard(doomed))
}

func (s *Store) discard(doomed []string) error {
	for _, d := range doomed {
		if err := s.disk.Discard(d); err != nil {
			return fmt.Errorf("remove layer: %w", err)
		}
	}
	return nil
}

// held says whether somebody holds an image; mu is held.
func (s *Store) held(id string) bool {
	for _, h := range s.holds {
		if h == id {
			return true
		}
	}
	return false
}

// Collect frees what removed images left for users that did not hold again after a restart, and waits for the sweeping that Open began. Call it once all
// users had their chance.
func (s *Store) Collect(ctx context.Context) error {
	select {
	case <-s.swept:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.removing(func() ([]string, error) { return s.dropForgotten(ctx) })
}

func (s *Store) dropForgotten(ctx context.Context) (doomed []string, err error) {
	s.mu.RLock()
	var gone []*entry
	for id, e := range s.images {
		if e.record.Removed && !s.held(id) {
			gone = append(gone, e)
		}
	}
	s.mu.RUnlock()
	for _, e := range gone {
		if err := ctx.Err(); err != nil {
			return doomed, err
		}
		more, err := s.drop(e)
		doomed = append(doomed, more...)
		if err != nil {
			return doomed, err
		}
	}
	return doomed, nil
}

// Remove removes an image with all its tags and digests, whichever names it. Its space, except layers that other images share, is free on return. One that
// is not there is no error. One that is held disappears, but its layers stay until the last [Store.Release]. A pinned one is FailedPrecondition.
func (s *Store) Remove(ctx context.Context, ref string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("remove image %q: %w", ref, err)
	}
	return s.removing(func() ([]string, error) {
		s.mu.RLock()
		e, err := s.find(ref)
		s.mu.RUnlock()
		if errs.Is(err, errs.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if e.record.Pinned {
			return nil, errs.New(errs.FailedPrecondition, "remove image %q: it is part of fermata", ref)
		}
		return s.drop(e)
	})
}

// drop makes an image go, and everything that only it needs; commit is held. What it returns is to be discarded. An image that is held only disappears.
func (s *Store) drop(e *entry) (doomed []string, err error) {
	id := e.record.ID
	s.mu.Lock()
	if s.held(id) {
		s.mu.Unlock()
		return nil, s.hide(e)
	}
	delete(s.images, id)
	s.mu.Unlock()
	if err := undo.Step("remove-image/record", func() error { return s.disk.DeleteRecord(id) }); err != nil {
		s.mu.Lock()
		s.images[id] = e
		s.mu.Unlock()
		return nil, fmt.Errorf("remove image %s: %w", id, err)
	}
	s.mu.Lock()
	var needed []string
	for _, other := range s.images {
		needed = append(needed, blobsOf(other.record)...)
	}
	s.countImages(e.record.Layers, -1)
	s.mu.Unlock()
	for _, b := range blobsOf(e.record) {
		if !slices.Contains(needed, b) {
			if err := s.disk.DeleteBlob(b); err != nil {
				return nil, fmt.Errorf("remove image %s: %w", id, err)
			}
		}
	}
	err = undo.Step("remove-image/layers", func() (err error) { doomed, err = s.detach(e.record.Layers); return err })
	return doomed, err
}

// hide makes an image disappear whose layers are still in use; commit is held.
func (s *Store) hide(e *entry) error {
	hidden := *e.record
	hidden.Removed, hidden.Names = true, nil
	if err := s.disk.PutRecord(&hidden, false); err != nil {
		return fmt.Errorf("remove image %s: %w", hidden.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.record = &hidden
	return nil
}

// countImages adds n to the number of images that need each layer; mu is held.
func (s *Store) countImages(refs []store.LayerRef, n int) {
	for _, ref := range refs {
		if l := s.layers[ref.Key]; l != nil {
			l.images += n
		}
	}
}

// free removes those of some layers that nobody needs any more.
func (s *Store) free(refs []store.LayerRef) error {
	doomed, err := s.detach(refs)
	return errors.Join(err, s.discard(doomed))
}

// detach makes those of some layers disappear that nobody needs any more, and returns what is to be discarded.
func (s *Store) detach(refs []store.LayerRef) (doomed []string, err error) {
	s.mu.Lock() // over the renaming too, so that nobody finds a layer half gone
	defer s.mu.Unlock()
	for _, ref := range refs {
		l := s.layers[ref.Key]
		if l == nil || l.images > 0 || l.pins > 0 {
			continue
		}
		away, err := s.disk.TakeLayer(ref.Key)
		if err != nil {
			return doomed, fmt.Errorf("remove layer %s: %w", ref.Key, err)
		}
		delete(s.layers, ref.Key)
		if away != "" {
			doomed = append(doomed, away)
		}
	}
	return doomed, nil
}
