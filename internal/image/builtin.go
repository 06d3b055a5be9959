package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"fermata/internal/errs"
	"fermata/internal/image/reference"
	"fermata/internal/image/store"
)

// AddBuiltin makes a pinned image of a few executable files, by their paths: a part of fermata that shows up among images, cannot be removed, and can be
// exported with the same digests on every machine. Images that an earlier fermata had under other tags of the same name go. If it is there, nothing happens.
func (s *Store) AddBuiltin(ref string, files map[string][]byte, cfg v1.Config) error {
	r, err := reference.Parse(ref)
	if err != nil {
		return err
	}
	if r.Tag == "" || r.Digest != "" {
		return errs.New(errs.InvalidArgument, "add built-in image %q: it takes a tag and no digest", ref)
	}
	m, layer, err := builtin(files, cfg, s.o.Architecture)
	if err != nil {
		return fmt.Errorf("add built-in image %q: %w", ref, err)
	}
	m.name = store.Name{Repository: r.Repository(), Tag: r.Tag, Digest: m.digest, Manifest: m.digest}
	s.mu.RLock()
	e := s.named(r)
	there := e != nil && e.record.ID == m.id() && e.record.Pinned
	s.mu.RUnlock()
	if !there {
		open := func(context.Context, int) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(layer)), nil
		}
		if _, err := s.bring(s.life, &flight{}, m, open); err != nil {
			return fmt.Errorf("add built-in image %q: %w", ref, err)
		}
	}
	return s.supersede(r, m.id())
}

// supersede removes pinned images of other tags of a repository.
func (s *Store) supersede(r reference.Reference, id string) error {
	return s.removing(func() ([]string, error) { return s.dropSuperseded(r, id) })
}

func (s *Store) dropSuperseded(r reference.Reference, id string) (doomed []string, err error) {
	s.mu.RLock()
	var old []*entry
	for _, e := range s.images {
		if e.record.ID != id && e.record.Pinned && !e.record.Removed &&
			slices.ContainsFunc(e.record.Names, func(n store.Name) bool { return n.Repository == r.Repository() }) {
			old = append(old, e)
		}
	}
	s.mu.RUnlock()
	for _, e := range old {
		more, err := s.drop(e)
		doomed = append(doomed, more...)
		if err != nil {
			return doomed, err
		}
	}
	return doomed, nil
}

// builtin makes an image of files, the same for the same files.
func builtin(files map[string][]byte, cfg v1.Config, architecture string) (*incoming, []byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(name, "/"), Mode: 0o755, Size: int64(len(files[name])), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	digest := digestOf(layer.Bytes())
	hash, err := v1.NewHash(digest)
	if err != nil {
		return nil, nil, err
	}
	file := &v1.ConfigFile{Architecture: architecture, OS: "linux", Config: cfg, RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hash}}}
	l := v1.Descriptor{MediaType: types.OCIUncompressedLayer, Size: int64(layer.Len()), Digest: hash}
	m, err := compose(file, []v1.Descriptor{l}, nil)
	if err != nil {
		return nil, nil, err
	}
	m.pinned, m.blobs = true, map[string][]byte{digest: layer.Bytes()}
	return m, layer.Bytes(), nil
}

// compose makes config and manifest of an image whose layers are known.
func compose(file *v1.ConfigFile, layers []v1.Descriptor, annotations map[string]string) (*incoming, error) {
	config, err := json.Marshal(file)
	if err != nil {
		return nil, err
	}
	return composeRaw(config, layers, annotations)
}

func composeRaw(config []byte, layers []v1.Descriptor, annotations map[string]string) (*incoming, error) {
	hash, err := v1.NewHash(digestOf(config))
	if err != nil {
		return nil, err
	}
	manifest := &v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: layers, Annotations: annotations,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: hash}}
	if manifest.Layers == nil {
		manifest.Layers = []v1.Descriptor{}
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	m := &incoming{raw: raw, digest: digestOf(raw), manifest: manifest, config: config}
	m.served = m.digest
	return m, m.checkConfig()
}
