package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/image"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

// open opens a store in a directory of the test's own.
func open(t *testing.T, change ...func(*image.Options)) *image.Store {
	t.Helper()
	o := image.Options{Root: t.TempDir(), RegistriesDir: filepath.Join(t.TempDir(), "certs.d")}
	for _, c := range change {
		c(&o)
	}
	return reopen(t, o)
}

func openB(b *testing.B) *image.Store {
	b.Helper()
	return reopen(b, image.Options{Root: b.TempDir()})
}

func pullB(b *testing.B, s *image.Store, ref string) {
	b.Helper()
	if _, err := s.Pull(b.Context(), image.Pull{Ref: ref}); err != nil {
		b.Fatal(err)
	}
}

func reopen(t testing.TB, o image.Options) *image.Store {
	t.Helper()
	s, err := image.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func pull(t *testing.T, s *image.Store, ref string) string {
	t.Helper()
	id, err := s.Pull(t.Context(), image.Pull{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func resolve(t *testing.T, s *image.Store, ref string) *image.Image {
	t.Helper()
	i, err := s.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// empty checks that a store has nothing but its directories.
func empty(t *testing.T, s *image.Store) {
	t.Helper()
	_ = filepath.WalkDir(s.Root(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
		} else if rel, _ := filepath.Rel(s.Root(), path); !slices.Contains([]string{".", "blobs", "blobs/sha256", "layers", "records", "tmp", "broken"}, rel) {
			t.Errorf("left in the store: %s", rel)
		}
		return nil
	})
}

func small() *handmade.Image {
	return handmade.New(
		handmade.NewLayer(handmade.Gzip, handmade.Dir("etc"), handmade.File("etc/a", "one"), handmade.File("etc/b", "two")),
		handmade.NewLayer(handmade.Zstd, handmade.Dir("etc"), handmade.Whiteout("etc/b"), handmade.File("etc/c", "three")),
		handmade.NewLayer(handmade.Plain, handmade.Dir("etc"), handmade.File("etc/d", "four")),
	)
}

func TestPulledImageIsThereUnderItsNamesAndGoesWithAllOfThem(t *testing.T) {
	for name, docker := range map[string]bool{"OCI": false, "Docker": true} {
		t.Run(name, func(t *testing.T) {
			reg, s, img := registry.New(t, registry.Options{}), open(t), small()
			img.Docker = docker
			if docker {
				img.Layers = slices.Delete(img.Layers, 1, 2) // Docker has no zstd
			}
			reg.Push("app:v1", img)
			ref := reg.Host() + "/app:v1"
			id := pull(t, s, ref)
			if id != img.ID() {
				t.Fatalf("id %s, want the config's digest %s", id, img.ID())
			}
			_, _, digest := img.Manifest()
			byDigest := reg.Host() + "/app@" + digest.String()
			for _, name := range []string{ref, id, strings.TrimPrefix(id, "sha256:"), id[7:19], "sha256:" + id[7:19], byDigest, ref + "@" + digest.String()} {
				if got := resolve(t, s, name); got.ID != id {
					t.Errorf("%s: got %s", name, got.ID)
				}
			}
			got := resolve(t, s, ref)
			if !slices.Equal(got.RepoTags, []string{ref}) || !slices.Equal(got.RepoDigests, []string{byDigest}) {
				t.Errorf("tags %v, digests %v", got.RepoTags, got.RepoDigests)
			}
			if got.Size < 3*4096 || got.Inodes < 6 || len(s.Lowers(got)) != len(img.Layers) || len(got.LayerIDs) != len(img.Layers) {
				t.Errorf("got %+v with lowers %v", got, s.Lowers(got))
			}
			if b, err := os.ReadFile(filepath.Join(s.Lowers(got)[len(img.Layers)-1], "etc/a")); err != nil || string(b) != "one" {
				t.Errorf("base layer's file: %q, %v", b, err)
			}
			if len(s.List()) != 1 {
				t.Errorf("list: %v", s.List())
			}
			if err := s.Remove(t.Context(), byDigest); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Resolve(ref); !errs.Is(err, errs.NotFound) {
				t.Errorf("after removal: %v", err)
			}
			empty(t, s)
		})
	}
}

func TestPullPastItsDeadlineLeavesNothingAndTheNextOneWorks(t *testing.T) {
	reg, s := registry.New(t, registry.Options{}), open(t)
	reg.Push("app:v1", small())
	reg.Fail(registry.Fault{Path: "/blobs/", Stall: true, After: 100})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.Pull(ctx, image.Pull{Ref: reg.Host() + "/app:v1"})
	if !errs.Is(err, errs.DeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	empty(t, s)
	reg.Heal()
	pull(t, s, reg.Host()+"/app:v1")
}
