package handmade

import (
	"encoding/json"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Served is anything a registry can hold under a name: a manifest and the blobs it needs.
type Served interface {
	// Manifest returns the bytes, their media type and digest.
	Manifest() ([]byte, types.MediaType, v1.Hash)
	// Blobs returns configs and layers by digest.
	Blobs() map[v1.Hash][]byte
	// Parts returns what else must be reachable by digest: the manifests of an index.
	Parts() []Served
}

// Image is one platform's image. Change its fields before it is first served.
type Image struct {
	// Config is completed with the layers' diffIDs.
	Config v1.ConfigFile
	Layers []Layer
	// Docker makes a schema2 manifest with Docker's media types instead of OCI's.
	Docker      bool
	Annotations map[string]string
}

// New makes an image for this machine's architecture, its layers base first.
func New(layers ...Layer) *Image {
	return &Image{Layers: layers, Config: v1.ConfigFile{
		Architecture: runtime.GOARCH, OS: "linux", Created: v1.Time{Time: Born},
	}}
}

// For returns a copy made for another platform.
func (i *Image) For(architecture, variant string) *Image {
	c := *i
	c.Config.Architecture, c.Config.Variant = architecture, variant
	return &c
}

// With returns a copy with another run configuration.
func (i *Image) With(config v1.Config) *Image {
	c := *i
	c.Config.Config = config
	return &c
}

// ConfigBytes returns the config as it is served.
func (i *Image) ConfigBytes() []byte {
	c := i.Config
	c.RootFS = v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}
	for _, l := range i.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
	}
	b, err := json.Marshal(c)
	must(err)
	return b
}

// ID is the image's id: the digest of its config.
func (i *Image) ID() string { return Digest(i.ConfigBytes()).String() }

// Manifest implements [Served].
func (i *Image) Manifest() ([]byte, types.MediaType, v1.Hash) {
	config := i.ConfigBytes()
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Annotations: i.Annotations, Layers: []v1.Descriptor{}}
	m.Config = v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: Digest(config)}
	if i.Docker {
		m.MediaType, m.Config.MediaType = types.DockerManifestSchema2, types.DockerConfigJSON
	}
	for _, l := range i.Layers {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.mediaType(i.Docker), Size: int64(len(l.Blob)), Digest: l.Digest})
	}
	b, err := json.Marshal(m)
	must(err)
	return b, m.MediaType, Digest(b)
}

// Blobs implements [Served].
func (i *Image) Blobs() map[v1.Hash][]byte {
	config := i.ConfigBytes()
	blobs := map[v1.Hash][]byte{Digest(config): config}
	for _, l := range i.Layers {
		blobs[l.Digest] = l.Blob
	}
	return blobs
}

// Parts implements [Served].
func (i *Image) Parts() []Served { return nil }

// Index is a manifest list over images of several platforms.
type Index struct {
	Images []*Image
	Docker bool
}

// Manifest implements [Served].
func (x *Index) Manifest() ([]byte, types.MediaType, v1.Hash) {
	m := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	if x.Docker {
		m.MediaType = types.DockerManifestList
	}
	for _, img := range x.Images {
		b, mt, d := img.Manifest()
		m.Manifests = append(m.Manifests, v1.Descriptor{MediaType: mt, Size: int64(len(b)), Digest: d,
			Platform: &v1.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant}})
	}
	b, err := json.Marshal(m)
	must(err)
	return b, m.MediaType, Digest(b)
}

// Blobs implements [Served].
func (x *Index) Blobs() map[v1.Hash][]byte { return nil }

// Parts implements [Served].
func (x *Index) Parts() []Served {
	var parts []Served
	for _, i := range x.Images {
		parts = append(parts, i)
	}
	return parts
}

// Raw is a manifest as it stands, for what no proper image would say.
type Raw struct {
	Bytes []byte
	Type  types.MediaType
	Extra map[v1.Hash][]byte
}

// Manifest implements [Served].
func (r *Raw) Manifest() ([]byte, types.MediaType, v1.Hash) { return r.Bytes, r.Type, Digest(r.Bytes) }

// Blobs implements [Served].
func (r *Raw) Blobs() map[v1.Hash][]byte { return r.Extra }

// Parts implements [Served].
func (r *Raw) Parts() []Served { return nil }

var (
	_ Served = (*Image)(nil)
	_ Served = (*Index)(nil)
	_ Served = (*Raw)(nil)
)
