package handmade_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestLayerHasTheDigestsOfWhatItServes(t *testing.T) {
	for _, c := range []handmade.Compression{handmade.Plain, handmade.Gzip, handmade.Zstd} {
		l := handmade.NewLayer(c, handmade.File("a", "x"), handmade.Whiteout("d/b"), handmade.Opaque("e"))
		var r io.Reader = bytes.NewReader(l.Blob)
		switch c {
		case handmade.Gzip:
			z, err := gzip.NewReader(r)
			if err != nil {
				t.Fatal(err)
			}
			r = z
		case handmade.Zstd:
			z, err := zstd.NewReader(r)
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			r = z
		}
		archive, err := io.ReadAll(r)
		if err != nil || handmade.Digest(archive) != l.DiffID || handmade.Digest(l.Blob) != l.Digest {
			t.Errorf("compression %d: digests are not of the contents: %v", c, err)
		}
		var names []string
		for tr := tar.NewReader(bytes.NewReader(archive)); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
		}
		if len(names) != 3 || names[1] != "d/.wh.b" || names[2] != "e/.wh..wh..opq" {
			t.Errorf("names %q", names)
		}
	}
}

func TestManifestNamesWhatIsServed(t *testing.T) {
	img := handmade.New(handmade.NewLayer(handmade.Gzip, handmade.File("a", "")))
	b, _, _ := img.Manifest()
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	blobs := img.Blobs()
	for _, d := range append(m.Layers, m.Config) {
		if int64(len(blobs[d.Digest])) != d.Size {
			t.Errorf("%s: %d bytes served, %d promised", d.Digest, len(blobs[d.Digest]), d.Size)
		}
	}
	if m.Config.Digest.String() != img.ID() {
		t.Errorf("config %s, id %s", m.Config.Digest, img.ID())
	}
}
