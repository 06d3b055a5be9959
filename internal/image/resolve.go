package image

import (
	"maps"
	"slices"
	"strings"

	"fermata/internal/errs"
	"fermata/internal/image/reference"
	"fermata/internal/image/store"
)

// shortestID is how much of an id must be given at least.
const shortestID = 4

// Resolve finds an image by id ("sha256:…" or bare), a unique beginning of it, tag, digest (of the list or of this platform's manifest), or name without tag.
// Not there is NotFound; what can be no name is InvalidArgument.
func (s *Store) Resolve(ref string) (*Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	return s.image(e), nil
}

// find is Resolve with mu held.
func (s *Store) find(ref string) (*entry, error) {
	unknown := errs.New(errs.NotFound, "image %q: not in the store", ref)
	if store.Hex(ref) != "" || store.Hex("sha256:"+ref) != "" {
		id := "sha256:" + strings.TrimPrefix(ref, "sha256:")
		if e := s.images[id]; e != nil && !e.record.Removed {
			return e, nil
		}
		return nil, unknown
	}
	r, err := reference.Parse(ref)
	if err == nil {
		if e := s.named(r); e != nil {
			return e, nil
		}
	}
	if e, err := s.beginning(strings.TrimPrefix(ref, "sha256:")); e != nil || err != nil {
		return e, err
	}
	if err != nil && !strings.HasPrefix(ref, "sha256:") {
		return nil, err
	}
	return nil, unknown
}

// named finds an image by a full name; a digest wins over a tag.
func (s *Store) named(r reference.Reference) *entry {
	for _, e := range s.images {
		if e.record.Removed {
			continue
		}
		for _, n := range e.record.Names {
			switch {
			case n.Repository != r.Repository():
			case r.Digest != "" && (n.Digest == r.Digest || n.Manifest == r.Digest), r.Digest == "" && n.Tag == r.Tag:
				return e
			}
		}
	}
	return nil
}

// beginning finds the one image whose id begins so; nil if none does or s is no hexadecimal beginning.
func (s *Store) beginning(prefix string) (*entry, error) {
	if len(prefix) < shortestID || len(prefix) > 64 || strings.Trim(prefix, "0123456789abcdef") != "" {
		return nil, nil
	}
	var found *entry
	for id, e := range s.images {
		if e.record.Removed || !strings.HasPrefix(id, "sha256:"+prefix) {
			continue
		}
		if found != nil {
			return nil, errs.New(errs.InvalidArgument, "image %q: more than one id begins so", prefix)
		}
		found = e
	}
	return found, nil
}

// image describes an entry; mu is held.
func (s *Store) image(e *entry) *Image {
	r := e.record
	i := &Image{ID: r.ID, Size: r.MetadataBytes, Pinned: r.Pinned, Config: *e.config.DeepCopy(), Created: e.created, ChainID: r.ChainID,
		LayerIDs: slices.Clone(e.diffIDs), ManifestDigest: r.Manifest, Annotations: maps.Clone(r.Annotations)}
	for _, n := range r.Names {
		if n.Tag != "" {
			i.RepoTags = append(i.RepoTags, n.Repository+":"+n.Tag)
		}
		if n.Digest != "" {
			i.RepoDigests = append(i.RepoDigests, n.Repository+"@"+n.Digest)
		}
	}
	slices.Sort(i.RepoTags)
	slices.Sort(i.RepoDigests)
	i.RepoTags, i.RepoDigests = slices.Compact(i.RepoTags), slices.Compact(i.RepoDigests)
	seen := map[string]bool{}
	for _, l := range slices.Backward(r.Layers) {
		if seen[l.Key] {
			continue // overlayfs refuses one directory twice (ELOOP); what the upper one has hides the lower one entirely
		}
		seen[l.Key] = true
		i.lowers = append(i.lowers, s.disk.LayerDir(l.Key))
		if have := s.layers[l.Key]; have != nil {
			i.Size += have.bytes
			i.Inodes += have.inodes
		}
	}
	return i
}

// List returns every image, by id.
func (s *Store) List() []*Image {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []*Image
	for _, id := range slices.Sorted(maps.Keys(s.images)) {
		if e := s.images[id]; !e.record.Removed {
			all = append(all, s.image(e))
		}
	}
	return all
}

// Lowers returns the overlay lower directories of an image, topmost first. They stay for as long as the image does, or somebody holds it.
func (s *Store) Lowers(img *Image) []string { return slices.Clone(img.lowers) }
