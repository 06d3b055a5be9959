package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/errs"
	"fermata/internal/image"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

const pauseName = "fermata.local/pause:0.1"

func TestBuiltinImageIsPinnedAndTheSameEveryTime(t *testing.T) {
	s := open(t)
	files := map[string][]byte{"/pause": []byte("\x7fELF…")}
	for range 2 {
		if err := s.AddBuiltin(pauseName, files, v1.Config{Entrypoint: []string{"/pause"}}); err != nil {
			t.Fatal(err)
		}
	}
	img := resolve(t, s, pauseName)
	if !img.Pinned || !slices.Equal(img.RepoTags, []string{pauseName}) || len(img.RepoDigests) != 1 || img.Config.Entrypoint[0] != "/pause" {
		t.Fatalf("got %+v", img)
	}
	if st, err := os.Stat(filepath.Join(s.Lowers(img)[0], "pause")); err != nil || st.Mode() != 0o755 {
		t.Fatalf("pause: %v, %v", st, err)
	}
	if err := s.Remove(t.Context(), pauseName); !errs.Is(err, errs.FailedPrecondition) {
		t.Fatalf("removal: %v", err)
	}
	var out bytes.Buffer
	if err := s.Export(t.Context(), pauseName, &out); err != nil {
		t.Fatal(err)
	}
	elsewhere := open(t)
	ids, err := elsewhere.Load(t.Context(), &out, image.LoadOptions{})
	if err != nil || !slices.Equal(ids, []string{img.ID}) {
		t.Fatalf("loaded %v, %v; want %s", ids, err, img.ID)
	}
	if got := resolve(t, elsewhere, pauseName); got.ManifestDigest != img.ManifestDigest || got.Pinned {
		t.Fatalf("loaded as %+v", got)
	}
}

func TestNewerBuiltinTakesTheOlderOnesPlace(t *testing.T) {
	s := open(t)
	for _, version := range []string{"0.1", "0.2"} {
		if err := s.AddBuiltin("fermata.local/pause:"+version, map[string][]byte{"pause": []byte(version)}, v1.Config{}); err != nil {
			t.Fatal(err)
		}
	}
	if all := s.List(); len(all) != 1 || all[0].RepoTags[0] != "fermata.local/pause:0.2" {
		t.Fatalf("list: %+v", all)
	}
}

func TestExportedImageLoadsWithTheSameTree(t *testing.T) {
	reg, s := registry.New(t, registry.Options{}), open(t)
	img := handmade.New(
		handmade.NewLayer(handmade.Gzip, handmade.Dir("d").Moded(0o1770).Owned(3, 4), handmade.File("d/x", "1"), handmade.Hard("d/y", "d/x"), handmade.File("gone", "")),
		handmade.NewLayer(handmade.Gzip, handmade.File("d/implied", "2").Moded(0o4755), handmade.Whiteout("gone"), handmade.Symlink("l", "/d"), handmade.FIFO("fifo"),
			handmade.Device(tar.TypeChar, "null", 1, 3), handmade.File("cap", "x").Xattr("security.capability", capability)),
		handmade.NewLayer(handmade.Gzip, handmade.Dir("e"), handmade.Opaque("e"), handmade.File("e/z", "3")),
	)
	reg.Push("app:v1", img)
	ref := reg.Host() + "/app:v1"
	pull(t, s, ref)
	var out bytes.Buffer
	if err := s.Export(t.Context(), ref, &out); err != nil {
		t.Fatal(err)
	}
	elsewhere := open(t)
	ids, err := elsewhere.Load(t.Context(), &out, image.LoadOptions{})
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	want, got := tree(t, s, ref), tree(t, elsewhere, ref)
	compare(t, want, got)
}

func TestLoadTakesWhatDockerSaves(t *testing.T) {
	img := small()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(kind byte, name, link string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.TypeReg, "abc.json", "", img.ConfigBytes())
	add(tar.TypeReg, "1/layer.tar", "", img.Layers[0].Tar)
	add(tar.TypeReg, "2/real.tar", "", img.Layers[1].Tar)
	add(tar.TypeSymlink, "2/layer.tar", "../2/real.tar", nil)
	add(tar.TypeReg, "3/layer.tar", "", img.Layers[2].Tar)
	manifest, err := json.Marshal([]map[string]any{{"Config": "abc.json", "RepoTags": []string{"saved:1", "other.io/saved:2"},
		"Layers": []string{"1/layer.tar", "2/layer.tar", "3/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	add(tar.TypeReg, "manifest.json", "", manifest)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]handmade.Compression{"plain": handmade.Plain, "gzip": handmade.Gzip, "zstd": handmade.Zstd} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			ids, err := s.Load(t.Context(), bytes.NewReader(handmade.Compress(c, out.Bytes())), image.LoadOptions{})
			if err != nil || !slices.Equal(ids, []string{img.ID()}) {
				t.Fatalf("got %v, %v", ids, err)
			}
			got := resolve(t, s, "saved:1")
			if !slices.Equal(got.RepoTags, []string{"docker.io/library/saved:1", "other.io/saved:2"}) {
				t.Errorf("tags %v", got.RepoTags)
			}
			if err := s.Remove(t.Context(), got.ID); err != nil {
				t.Fatal(err)
			}
			empty(t, s)
		})
	}
}

func TestLoadRefusesWhatIsNoImageArchive(t *testing.T) {
	s := open(t)
	for name, archive := range map[string][]byte{
		"nothing":            nil,
		"no tar":             []byte("hello, this is not an archive of any kind, however long one reads on in it"),
		"a tar of no image":  handmade.Tar(handmade.File("hello", "x")),
		"a wrong index":      handmade.Tar(handmade.File("index.json", "{")),
		"a missing manifest": handmade.Tar(handmade.File("index.json", `{"manifests":[{"digest":"sha256:`+img64+`"}]}`)),
		"a wrong digest":     handmade.Tar(handmade.File("index.json", `{"manifests":[{"digest":"sha256:`+img64+`"}]}`), handmade.File("blobs/sha256/"+img64, "{}")),
		"links in a circle":  handmade.Tar(handmade.File("manifest.json", `[{"Config":"a"}]`), handmade.Symlink("a", "b"), handmade.Symlink("b", "a")),
	} {
		t.Run(name, func(t *testing.T) {
			if ids, err := s.Load(t.Context(), bytes.NewReader(archive), image.LoadOptions{}); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("got %v, %v", ids, err)
			}
			empty(t, s)
		})
	}
}

const img64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var _ io.Reader = (*bytes.Reader)(nil)
