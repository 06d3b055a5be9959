package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"fermata/internal/errs"
	"fermata/internal/image/layers"
	"fermata/internal/image/reference"
	"fermata/internal/image/registry"
	"fermata/internal/image/store"
)

const (
	maxArchiveFiles = 100_000
	maxArchiveBytes = 1 << 40
	maxArchiveLinks = 8 // in a row
)

// Load takes images in from a tar, maybe compressed by gzip or zstd: an OCI layout, or what `docker save` writes. It returns the ids of the images for this
// platform, in the archive's order, each with the names that the archive gives it. Images loaded before an error stay.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) (ids []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("load images: %w", err)
		}
	}()
	dir, err := s.disk.TempDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.disk.Discard(dir)) }()
	a := &loaded{dir: dir, files: map[string]string{}, links: map[string]string{}}
	if err := a.read(ctx, r); err != nil {
		return nil, err
	}
	images, err := s.contents(a, o)
	if err != nil {
		return nil, err
	}
	for _, i := range images {
		names := i.names
		if len(names) == 0 {
			names = []store.Name{{}}
		}
		for _, n := range names {
			i.name = n
			if _, err := s.bring(ctx, &flight{}, &i.incoming, i.open); err != nil {
				return ids, err
			}
		}
		ids = append(ids, i.id())
	}
	return ids, nil
}

// loaded is an archive spread out in a directory, under numbers and not under its own names.
type loaded struct {
	dir   string
	files map[string]string // name → path
	links map[string]string // name → name: docker save has symbolic links for layers it has written already
}

// fromArchive is an image found in one.
type fromArchive struct {
	incoming
	names []store.Name
	open  opener
}

func (a *loaded) read(ctx context.Context, r io.Reader) error {
	plain, err := layers.Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	t := tar.NewReader(plain)
	var total int64
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errs.New(errs.InvalidArgument, "not a tar, or a broken one: %w", err)
		}
		if total += h.Size; n > maxArchiveFiles || h.Size < 0 || total > maxArchiveBytes {
			return errs.New(errs.InvalidArgument, "over %d files or %d bytes", maxArchiveFiles, int64(maxArchiveBytes))
		}
		name := path.Clean("/" + h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if err := a.keep(ctx, name, strconv.Itoa(n), t); err != nil {
				return err
			}
		case tar.TypeSymlink:
			a.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)
		}
	}
}

func (a *loaded) keep(ctx context.Context, name, as string, r io.Reader) error {
	f, err := os.OpenFile(filepath.Join(a.dir, as), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, whileWanted{ctx, r})
	a.files[name] = f.Name()
	return errors.Join(err, f.Close())
}

// whileWanted ends reading with the context.
type whileWanted struct {
	ctx context.Context
	r   io.Reader
}

func (w whileWanted) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.r.Read(p)
}

func (a *loaded) has(name string) bool { return a.files[path.Clean("/"+name)] != "" }

// path finds the file under a name of the archive, through its links.
func (a *loaded) path(name string) (string, error) {
	name = path.Clean("/" + name)
	for range maxArchiveLinks {
		if p := a.files[name]; p != "" {
			return p, nil
		}
		name = a.links[name]
	}
	return "", errs.New(errs.InvalidArgument, "the archive lacks %q", name)
}

func (a *loaded) bytes(name string) ([]byte, error) {
	p, err := a.path(name)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(p)
	if err != nil {
		return nil, err
	}
	if st.Size() > registry.MaxManifest {
		return nil, errs.New(errs.InvalidArgument, "%q: over %d bytes", name, registry.MaxManifest)
	}
	return os.ReadFile(p)
}

// blob reads a small blob of an OCI layout, and checks its digest.
func (a *loaded) blob(digest string) ([]byte, error) {
	if store.Hex(digest) == "" {
		return nil, errs.New(errs.InvalidArgument, "blob digest %q", digest)
	}
	b, err := a.bytes(blobPath(digest))
	if err != nil {
		return nil, err
	}
	if got := digestOf(b); got != digest {
		return nil, errs.New(errs.InvalidArgument, "blob %s: its digest is %s", digest, got)
	}
	return b, nil
}

// contents finds the images of an archive that are for this platform.
func (s *Store) contents(a *loaded, o LoadOptions) ([]*fromArchive, error) {
	var images []*fromArchive
	var err error
	switch {
	case a.has("index.json"):
		images, err = s.layoutContents(a)
	case a.has("manifest.json"):
		images, err = dockerContents(a)
	default:
		return nil, errs.New(errs.InvalidArgument, "neither an OCI layout (index.json) nor made by docker save (manifest.json)")
	}
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, errs.New(errs.NotFound, "nothing for linux/%s in the archive", s.o.Architecture)
	}
	if o.Name != "" && len(images) == 1 && len(images[0].names) == 0 {
		n, err := loadName(o.Name)
		if err != nil {
			return nil, err
		}
		images[0].names = []store.Name{n}
	}
	return images, nil
}

func loadName(name string) (store.Name, error) {
	r, err := reference.Parse(name)
	return store.Name{Repository: r.Repository(), Tag: r.Tag}, err
}

func (s *Store) layoutContents(a *loaded) ([]*fromArchive, error) {
	b, err := a.bytes("index.json")
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, errs.New(errs.InvalidArgument, "index.json: %w", err)
	}
	var images []*fromArchive
	for _, d := range index.Manifests {
		if d.Platform != nil && s.suits(d.Platform) < 0 {
			continue
		}
		i, err := s.layoutImage(a, d.Digest.String())
		if err != nil {
			return nil, err
		}
		for _, key := range []string{annotationName, annotationRefName} {
			if name := d.Annotations[key]; strings.ContainsAny(name, "/:") && len(i.names) == 0 {
				n, err := loadName(name)
				if err != nil {
					return nil, err
				}
				n.Manifest = i.digest
				i.names = append(i.names, n)
			}
		}
		images = append(images, i)
	}
	return images, nil
}

// layoutImage follows lists down to this platform's manifest.
func (s *Store) layoutImage(a *loaded, digest string) (*fromArchive, error) {
	for range maxNesting {
		b, err := a.blob(digest)
		if err != nil {
			return nil, err
		}
		list, manifest, err := parseManifest(b)
		if err != nil {
			return nil, err
		}
		if list != nil {
			d, err := s.platform(list)
			if err != nil {
				return nil, err
			}
			digest = d.Digest.String()
			continue
		}
		i := &fromArchive{incoming: incoming{raw: b, manifest: manifest, digest: digest, served: digest}}
		if i.config, err = a.blob(i.id()); err != nil {
			return nil, err
		}
		i.open = func(_ context.Context, n int) (io.ReadCloser, error) {
			return a.openFile(blobPath(manifest.Layers[n].Digest.String()))
		}
		return i, i.checkConfig()
	}
	return nil, errs.New(errs.InvalidArgument, "manifest %s: lists of lists of lists", digest)
}

func (a *loaded) openFile(name string) (io.ReadCloser, error) {
	p, err := a.path(name)
	if err != nil {
		return nil, err
	}
	return os.Open(p)
}

// dockerContents reads manifest.json, and makes the manifests that it does not have.
func dockerContents(a *loaded) ([]*fromArchive, error) {
	b, err := a.bytes("manifest.json")
	if err != nil {
		return nil, err
	}
	var entries []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(b, &entries); err != nil {
		return nil, errs.New(errs.InvalidArgument, "manifest.json: %w", err)
	}
	var images []*fromArchive
	for _, e := range entries {
		config, err := a.bytes(e.Config)
		if err != nil {
			return nil, err
		}
		var descriptors []v1.Descriptor
		for _, l := range e.Layers {
			d, err := a.describe(l)
			if err != nil {
				return nil, err
			}
			descriptors = append(descriptors, d)
		}
		m, err := composeRaw(config, descriptors, nil)
		if err != nil {
			return nil, err
		}
		i := &fromArchive{incoming: *m}
		i.open = func(_ context.Context, n int) (io.ReadCloser, error) { return a.openFile(e.Layers[n]) }
		for _, tag := range e.RepoTags {
			n, err := loadName(tag)
			if err != nil {
				return nil, err
			}
			n.Manifest = m.digest
			i.names = append(i.names, n)
		}
		images = append(images, i)
	}
	return images, nil
}

// describe makes a layer's descriptor from its file.
func (a *loaded) describe(name string) (v1.Descriptor, error) {
	f, err := a.openFile(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	d := layers.NewDigester(io.Discard)
	if _, err := io.Copy(d, f); err != nil {
		return v1.Descriptor{}, err
	}
	hash, err := v1.NewHash(d.Digest())
	return v1.Descriptor{MediaType: types.OCIUncompressedLayer, Size: d.Size(), Digest: hash}, err
}
