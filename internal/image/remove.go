package image

import (
	"context"
	"fmt"
	"slices"

	"fermata/internal/errs"
	"fermata/internal/image/store"
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
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.Lock()
	id, ok := s.holds[user]
	delete(s.holds, user)
	e := s.images[id]
	gone := ok && e != nil && e.record.Removed && !s.held(id)
	s.mu.Unlock()
	if !gone {
		return nil
	}
	return s.drop(e)
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
	s.commit.Lock()
	defer s.commit.Unlock()
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
			return err
		}
		if err := s.drop(e); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes an image with all its tags and digests, whichever names it. Its space, except layers that other images share, is free on return. One that
// is not there is no error. One that is held disappears, but its layers stay until the last [Store.Release]. A pinned one is FailedPrecondition.
func (s *Store) Remove(ctx context.Context, ref string) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.RLock()
	e, err := s.find(ref)
	s.mu.RUnlock()
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.record.Pinned {
		return errs.New(errs.FailedPrecondition, "remove image %q: it is part of fermata", ref)
	}
	return s.drop(e)
}

// drop makes an image go, and everything that only it needs; commit is held. If somebody began to hold it just now, it only disappears.
func (s *Store) drop(e *entry) error {
	id := e.record.ID
	s.mu.Lock()
	if s.held(id) {
		s.mu.Unlock()
		return s.hide(e)
	}
	delete(s.images, id)
	s.mu.Unlock()
	if err := s.disk.DeleteRecord(id); err != nil {
		s.mu.Lock()
		s.images[id] = e
		s.mu.Unlock()
		return fmt.Errorf("remove image %s: %w", id, err)
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
				return fmt.Errorf("remove image %s: %w", id, err)
			}
		}
	}
	return s.free(e.record.Layers)
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
	var doomed []string
	s.mu.Lock()
	for _, ref := range refs {
		l := s.layers[ref.Key]
		if l == nil || l.images > 0 || l.pins > 0 {
			continue
		}
		away, err := s.disk.TakeLayer(ref.Key) // with mu held, so that nobody finds it half gone
		if err != nil {
			s.mu.Unlock()
			return fmt.Errorf("remove layer %s: %w", ref.Key, err)
		}
		delete(s.layers, ref.Key)
		if away != "" {
			doomed = append(doomed, away)
		}
	}
	s.mu.Unlock()
	for _, d := range doomed {
		if err := s.disk.Discard(d); err != nil {
			return fmt.Errorf("remove layer: %w", err)
		}
	}
	return nil
}
