package image_test

import (
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/image"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

// killedPull lets another process pull ref and kills it when the registry is asked for what the fault matches.
func killedPull(t *testing.T, reg *registry.Registry, root, ref string, f registry.Fault) {
	t.Helper()
	arrived := make(chan struct{})
	f.Times, f.Stall, f.Hook = 1, true, func(*http.Request) { close(arrived) }
	reg.Fail(f)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), envRoot+"="+root, envRef+"="+ref)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-arrived
	if err := c.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = c.Wait()
	reg.Heal()
}

func TestProcessKilledInAPullLeavesNothingThatShows(t *testing.T) {
	img := small()
	img.Layers = append(img.Layers, handmade.NewLayer(handmade.Gzip, handmade.Hard("link", "etc/a")))
	for name, f := range map[string]registry.Fault{
		"before the manifest":            {Path: "/manifests/"},
		"at the config":                  {Path: img.ID()[7:]},
		"in the first layer":             {Path: img.Layers[0].Digest.Hex, After: 60},
		"in the last, others there":      {Path: img.Layers[3].Digest.Hex, After: 60},
		"at the start of the third":      {Path: img.Layers[2].Digest.Hex},
		"at the end of the second layer": {Path: img.Layers[1].Digest.Hex, After: len(img.Layers[1].Blob) - 1},
	} {
		t.Run(name, func(t *testing.T) {
			reg, root := registry.New(t, registry.Options{}), t.TempDir()
			reg.Push("app:v1", img)
			ref := reg.Host() + "/app:v1"
			killedPull(t, reg, root, ref, f)
			s := reopen(t, image.Options{Root: root})
			if all := s.List(); len(all) != 0 || len(s.Problems()) != 0 {
				t.Errorf("images %v, problems %v", all, s.Problems())
			}
			if err := s.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			empty(t, s)
			pull(t, s, ref)
			resolve(t, s, ref)
		})
	}
}

func TestImagesAreThereAfterARestartAsBefore(t *testing.T) {
	reg, o := registry.New(t, registry.Options{}), image.Options{Root: t.TempDir()}
	reg.Push("app:v1", small())
	reg.Push("app:v2", handmade.New(small().Layers[0]))
	s, err := image.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	pull(t, s, reg.Host()+"/app:v1")
	pull(t, s, reg.Host()+"/app:v2")
	before := s.List()
	bytes, inodes, _ := s.Usage()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, o)
	after := s.List()
	if len(after) != 2 || len(before) != 2 {
		t.Fatalf("%d and %d images", len(before), len(after))
	}
	for i := range after {
		b, a := before[i], after[i]
		if a.ID != b.ID || a.Size != b.Size || a.RepoTags[0] != b.RepoTags[0] || a.RepoDigests[0] != b.RepoDigests[0] || a.ChainID != b.ChainID || len(s.Lowers(a)) != len(s.Lowers(b)) {
			t.Errorf("before %+v\nafter %+v", b, a)
		}
	}
	if b, i, _ := s.Usage(); b != bytes || i != inodes {
		t.Errorf("usage %d/%d, was %d/%d", b, i, bytes, inodes)
	}
}

func TestBrokenRecordCostsOneImageAndIsNamed(t *testing.T) {
	for name, spoil := range map[string]func(record string) error{
		"cut short":                     func(r string) error { return os.Truncate(r, 20) },
		"empty":                         func(r string) error { return os.Truncate(r, 0) },
		"a later version":               func(r string) error { return edit(r, `"version": 1`, `"version": 2`) },
		"a layer's name that leads out": func(r string) error { return edit(r, `"key": "`, `"key": "../`) },
		"a layer gone": func(r string) error {
			return os.RemoveAll(filepath.Join(filepath.Dir(r), "../layers", handmade.New(broken).Layers[0].DiffID.Hex))
		},
		"a config gone": func(r string) error {
			return os.Remove(filepath.Join(filepath.Dir(r), "../blobs/sha256", strings.TrimSuffix(filepath.Base(r), ".json")))
		},
		"a layer's description spoilt": func(r string) error {
			return os.Truncate(filepath.Join(filepath.Dir(r), "../layers", broken.DiffID.Hex, "layer.json"), 3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg, o := registry.New(t, registry.Options{}), image.Options{Root: t.TempDir()}
			reg.Push("good:v1", small())
			reg.Push("bad:v1", handmade.New(broken))
			s, err := image.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			pull(t, s, reg.Host()+"/good:v1")
			id := pull(t, s, reg.Host()+"/bad:v1")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := spoil(filepath.Join(s.Root(), "records", id[7:]+".json")); err != nil {
				t.Fatal(err)
			}
			s = reopen(t, o)
			if len(s.Problems()) != 1 || !strings.Contains(s.Problems()[0], id[7:]) {
				t.Errorf("problems %q", s.Problems())
			}
			resolve(t, s, reg.Host()+"/good:v1")
			if _, err := s.Resolve(id); !errs.Is(err, errs.NotFound) {
				t.Errorf("the broken one: %v", err)
			}
			pull(t, s, reg.Host()+"/bad:v1") // makes it whole
			if b, err := os.ReadFile(filepath.Join(s.Lowers(resolve(t, s, id))[0], "broken")); err != nil || string(b) != "not any more" {
				t.Errorf("pulled again: %q, %v", b, err)
			}
		})
	}
}

var broken = handmade.NewLayer(handmade.Gzip, handmade.File("broken", "not any more"))

func edit(name, old, new string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(strings.ReplaceAll(string(b), old, new)), 0o600)
}

func TestStoreIsForRootOnly(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "images/layers"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := reopen(t, image.Options{Root: root})
	entries, err := os.ReadDir(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if i, err := e.Info(); err != nil || i.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", e.Name(), i.Mode(), err)
		}
	}
	if i, err := os.Stat(s.Root()); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("the store: %v, %v", i.Mode(), err)
	}
}

func TestSizeIsWhatTheDiskHas(t *testing.T) {
	reg, s := registry.New(t, registry.Options{}), open(t)
	var layers []handmade.Layer
	for i := range 3 {
		layers = append(layers, bulk(handmade.Gzip, uint64(i), 8<<20))
	}
	reg.Push("app:v1", handmade.New(layers...))
	pull(t, s, reg.Host()+"/app:v1")
	out, err := exec.Command("du", "-s", "-B1", s.Root()).Output()
	if err != nil {
		t.Fatal(err)
	}
	var du int64
	for _, c := range strings.Fields(string(out))[0] {
		du = du*10 + int64(c-'0')
	}
	bytes, _, _ := s.Usage()
	size := resolve(t, s, reg.Host()+"/app:v1").Size
	for what, n := range map[string]int64{"usage": int64(bytes), "size": int64(size)} {
		if n < du*95/100 || n > du*105/100 {
			t.Errorf("%s is %d, the disk has %d", what, n, du)
		}
	}
}
