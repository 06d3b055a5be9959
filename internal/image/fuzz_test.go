package image_test

import (
	"bytes"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"fermata/internal/image"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

// FuzzManifest pulls from a registry that serves any bytes as manifest and config.
func FuzzManifest(f *testing.F) {
	img := small()
	m, _, _ := img.Manifest()
	f.Add(m, img.ConfigBytes())
	list, _, _ := (&handmade.Index{Images: []*handmade.Image{img}}).Manifest()
	f.Add(list, img.ConfigBytes())
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		reg, s := registry.New(t, registry.Options{}), open(t)
		blobs := img.Blobs()
		blobs[handmade.Digest(config)] = config
		// Whatever the manifest calls its config, it gets this one, if the digest is right.
		manifest = bytes.ReplaceAll(manifest, []byte(img.ID()), []byte(handmade.Digest(config).String()))
		reg.Push("app:v1", &handmade.Raw{Bytes: manifest, Type: types.OCIManifestSchema1, Extra: blobs})
		id, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1"})
		if err != nil {
			empty(t, s)
			return
		}
		if got := resolve(t, s, id); got.ID != id || len(got.RepoDigests) != 1 {
			t.Fatalf("got %+v", got)
		}
	})
}

// FuzzLoad takes in any bytes as an archive.
func FuzzLoad(f *testing.F) {
	s := handmade.Tar(handmade.File("manifest.json", `[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]`), handmade.File("c", `{"rootfs":{"diff_ids":[]}}`))
	f.Add(s)
	f.Add(handmade.Compress(handmade.Gzip, s))
	f.Add(handmade.Tar(handmade.File("index.json", `{"manifests":[{"digest":"sha256:`+img64+`"}]}`)))
	f.Fuzz(func(t *testing.T, archive []byte) {
		s := open(t)
		if _, err := s.Load(t.Context(), bytes.NewReader(archive), image.LoadOptions{}); err != nil && len(s.List()) == 0 {
			empty(t, s)
		}
	})
}
