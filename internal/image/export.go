package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"fermata/internal/image/layers"
	"fermata/internal/image/reference"
	"fermata/internal/image/store"
)

// The annotations by which tools find an image's name in an archive.
const (
	annotationName    = "io.containerd.image.name"
	annotationRefName = "org.opencontainers.image.ref.name"
)

// Export writes an image as a tar of an OCI layout. A built-in image comes out as it is. Of others the compressed layers are not kept, so layers are made again
// from what is unpacked: the same files, but other digests, and therefore another id.
func (s *Store) Export(ctx context.Context, ref string, w io.Writer) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("export image %q: %w", ref, err)
		}
	}()
	img, err := s.Resolve(ref)
	if err != nil {
		return err
	}
	user := fmt.Sprintf("export %d", time.Now().UnixNano())
	if err := s.Hold(img.ID, user); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Release(user)) }()
	out := &layout{w: tar.NewWriter(w)}
	m, err := s.exported(ctx, img, out)
	if err != nil {
		return err
	}
	return out.finish(m, exportName(ref, img))
}

// exportName is the name an archive gives: the one asked for if it has a tag, else the first.
func exportName(ref string, img *Image) string {
	if r, err := reference.Parse(ref); err == nil && r.Tagged() != "" {
		for _, t := range img.RepoTags {
			if t == r.Tagged() {
				return t
			}
		}
	}
	if len(img.RepoTags) > 0 {
		return img.RepoTags[0]
	}
	return ""
}

// exported writes the layers of an image and returns the manifest and config that go with them.
func (s *Store) exported(ctx context.Context, img *Image, out *layout) (*incoming, error) {
	s.mu.RLock()
	r := s.images[img.ID].record
	s.mu.RUnlock()
	config, err := s.disk.Blob(r.ID)
	if err != nil {
		return nil, err
	}
	raw, err := s.disk.Blob(r.Manifest)
	if err != nil {
		return nil, err
	}
	if len(r.Blobs) > 0 {
		for _, d := range r.Blobs {
			b, err := s.disk.Blob(d)
			if err != nil {
				return nil, err
			}
			if err := out.blob(d, b); err != nil {
				return nil, err
			}
		}
		_, manifest, err := parseManifest(raw)
		return &incoming{raw: raw, digest: r.Manifest, manifest: manifest, config: config}, err
	}
	var file v1.ConfigFile
	if err := json.Unmarshal(config, &file); err != nil {
		return nil, err
	}
	file.RootFS.DiffIDs = []v1.Hash{}
	var descriptors []v1.Descriptor
	for _, ref := range r.Layers {
		if ref.DiffID == "" {
			continue // a fix-up layer: directories that are not listed need none
		}
		d, diffID, err := s.exportLayer(ctx, ref, out)
		if err != nil {
			return nil, err
		}
		descriptors = append(descriptors, d)
		file.RootFS.DiffIDs = append(file.RootFS.DiffIDs, diffID)
	}
	return compose(&file, descriptors, img.Annotations)
}

// exportLayer makes a layer's archive again, in a file because its digest comes before it.
func (s *Store) exportLayer(ctx context.Context, ref store.LayerRef, out *layout) (d v1.Descriptor, diffID v1.Hash, err error) {
	spool, err := s.disk.TempFile()
	if err != nil {
		return d, diffID, err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	u, err := s.unpacked(ref.Key)
	if err != nil {
		return d, diffID, err
	}
	defer u.Dir.Close()
	served := layers.NewDigester(spool)
	z, err := gzip.NewWriterLevel(served, gzip.BestSpeed)
	if err != nil {
		return d, diffID, err
	}
	archive := layers.NewDigester(z)
	if err := layers.Pack(ctx, u, archive); err != nil {
		return d, diffID, err
	}
	if err := z.Close(); err != nil {
		return d, diffID, err
	}
	if diffID, err = v1.NewHash(archive.Digest()); err != nil {
		return d, diffID, err
	}
	d = v1.Descriptor{MediaType: types.OCILayer, Size: served.Size()}
	if d.Digest, err = v1.NewHash(served.Digest()); err != nil {
		return d, diffID, err
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return d, diffID, err
	}
	return d, diffID, out.file(blobPath(served.Digest()), spool, served.Size())
}

// layout writes an OCI layout into a tar.
type layout struct {
	w    *tar.Writer
	seen map[string]bool
}

func blobPath(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func (l *layout) blob(digest string, b []byte) error {
	return l.file(blobPath(digest), strings.NewReader(string(b)), int64(len(b)))
}

func (l *layout) file(name string, r io.Reader, size int64) error {
	if l.seen[name] {
		return nil
	}
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	l.seen[name] = true
	if err := l.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := io.Copy(l.w, r)
	return err
}

func (l *layout) finish(m *incoming, name string) error {
	if err := l.blob(m.id(), m.config); err != nil {
		return err
	}
	if err := l.blob(m.digest, m.raw); err != nil {
		return err
	}
	hash, err := v1.NewHash(m.digest)
	if err != nil {
		return err
	}
	d := v1.Descriptor{MediaType: m.manifest.MediaType, Size: int64(len(m.raw)), Digest: hash}
	if d.MediaType == "" {
		d.MediaType = types.OCIManifestSchema1
	}
	if name != "" {
		d.Annotations = map[string]string{annotationName: name, annotationRefName: name}
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d}})
	if err != nil {
		return err
	}
	if err := l.file("index.json", strings.NewReader(string(index)), int64(len(index))); err != nil {
		return err
	}
	const version = `{"imageLayoutVersion":"1.0.0"}`
	if err := l.file("oci-layout", strings.NewReader(version), int64(len(version))); err != nil {
		return err
	}
	return l.w.Close()
}
