package image_test

import (
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"fermata/internal/errs"
	"fermata/internal/image"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

func TestListGivesThisPlatformAndIsWhatDigestsName(t *testing.T) {
	for name, docker := range map[string]bool{"OCI": false, "Docker": true} {
		t.Run(name, func(t *testing.T) {
			reg, s := registry.New(t, registry.Options{}), open(t)
			ours := handmade.New(handmade.NewLayer(handmade.Gzip, handmade.File("ours", "")))
			ours.Docker = docker
			windows := ours.For(runtime.GOARCH, "")
			windows.Config.OS = "windows"
			list := &handmade.Index{Docker: docker, Images: []*handmade.Image{ours.For("s390x", ""), windows, ours.For(runtime.GOARCH, "v9"), ours, ours.For("unknown", "")}}
			reg.Push("app:v1", list)
			ref := reg.Host() + "/app:v1"
			if id := pull(t, s, ref); id != ours.ID() {
				t.Fatalf("got %s, want %s", id, ours.ID())
			}
			_, _, listDigest := list.Manifest()
			_, _, own := ours.Manifest()
			if got := resolve(t, s, ref); !slices.Equal(got.RepoDigests, []string{reg.Host() + "/app@" + listDigest.String()}) {
				t.Errorf("digests %v, want the list's", got.RepoDigests)
			}
			for _, d := range []string{listDigest.String(), own.String()} {
				if got := resolve(t, s, reg.Host()+"/app@"+d); got.ID != ours.ID() {
					t.Errorf("by %s: %s", d, got.ID)
				}
			}
		})
	}
}

func TestVariantIsChosenByWhatTheMachineSurelyHas(t *testing.T) {
	img := handmade.New(handmade.NewLayer(handmade.Gzip, handmade.File("x", "")))
	for name, c := range map[string]struct {
		architecture, variant, want string
		offered                     []string
	}{
		"amd64 takes none before v3":       {"amd64", "", "", []string{"v3", "", "v2"}},
		"amd64 takes v1 before v2":         {"amd64", "", "v1", []string{"v2", "v1"}},
		"arm64 takes v8":                   {"arm64", "", "v8", []string{"v9", "v8"}},
		"a variant asked for is the first": {"amd64", "v3", "v3", []string{"", "v3"}},
		"what else there is, if need be":   {"amd64", "", "v2", []string{"v2"}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := registry.New(t, registry.Options{})
			s := open(t, func(o *image.Options) { o.Architecture, o.Variant = c.architecture, c.variant })
			list := &handmade.Index{}
			for _, v := range c.offered {
				list.Images = append(list.Images, img.For(c.architecture, v))
			}
			reg.Push("app:v1", list)
			if id := pull(t, s, reg.Host()+"/app:v1"); id != img.For(c.architecture, c.want).ID() {
				t.Errorf("not variant %q", c.want)
			}
		})
	}
}

func TestPulledByDigestHasNoTag(t *testing.T) {
	reg, s, img := registry.New(t, registry.Options{}), open(t), small()
	reg.Push("app:v1", img)
	_, _, digest := img.Manifest()
	for _, ref := range []string{reg.Host() + "/app@" + digest.String(), reg.Host() + "/app:v1@" + digest.String()} {
		pull(t, s, ref)
		if got := resolve(t, s, ref); len(got.RepoTags) != 0 || !slices.Equal(got.RepoDigests, []string{reg.Host() + "/app@" + digest.String()}) {
			t.Errorf("%s: tags %v, digests %v", ref, got.RepoTags, got.RepoDigests)
		}
	}
}

func TestWhatIsNoImageIsRefusedAndLeavesNothing(t *testing.T) {
	good := small()
	manifest := func(change func(*v1.Manifest)) *handmade.Raw {
		b, kind, _ := good.Manifest()
		var m v1.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return &handmade.Raw{Bytes: b, Type: kind, Extra: good.Blobs()}
	}
	wrongDiffID := small()
	wrongDiffID.Layers[1].DiffID = handmade.Digest([]byte("something else"))
	windows := small()
	windows.Config.OS = "windows"
	for name, c := range map[string]struct {
		served handmade.Served
		want   errs.Kind
	}{
		"schema 1":                            {&handmade.Raw{Bytes: []byte(`{"schemaVersion":1,"fsLayers":[]}`), Type: types.DockerManifestSchema1}, errs.Unimplemented},
		"signed schema 1":                     {&handmade.Raw{Bytes: []byte(`{"schemaVersion":1,"fsLayers":[],"signatures":[]}`), Type: types.DockerManifestSchema1Signed}, errs.Unimplemented},
		"no JSON":                             {&handmade.Raw{Bytes: []byte(`<html>`), Type: types.OCIManifestSchema1}, errs.InvalidArgument},
		"neither list nor image":              {&handmade.Raw{Bytes: []byte(`{"schemaVersion":2}`), Type: types.OCIManifestSchema1}, errs.InvalidArgument},
		"list and image at once":              {&handmade.Raw{Bytes: []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`), Type: types.OCIManifestSchema1}, errs.InvalidArgument},
		"an empty list":                       {&handmade.Index{}, errs.NotFound},
		"a list for others only":              {&handmade.Index{Images: []*handmade.Image{good.For("s390x", "")}}, errs.NotFound},
		"a list of itself, in effect":         {nested(5), errs.InvalidArgument},
		"an artifact":                         {manifest(func(m *v1.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), errs.Unimplemented},
		"an encrypted layer":                  {manifest(func(m *v1.Manifest) { m.Layers[0].MediaType += "+encrypted" }), errs.Unimplemented},
		"fewer layers than diffIDs":           {manifest(func(m *v1.Manifest) { m.Layers = m.Layers[:1] }), errs.InvalidArgument},
		"more layers than diffIDs":            {manifest(func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), errs.InvalidArgument},
		"too many layers":                     {manifest(func(m *v1.Manifest) { m.Layers = make([]v1.Descriptor, 501) }), errs.InvalidArgument},
		"a layer of negative size":            {manifest(func(m *v1.Manifest) { m.Layers[0].Size = -5 }), errs.InvalidArgument},
		"a layer longer than it says":         {manifest(func(m *v1.Manifest) { m.Layers[0].Size-- }), errs.InvalidArgument},
		"a diffID that is wrong":              {wrongDiffID, errs.InvalidArgument},
		"for Windows":                         {windows, errs.InvalidArgument},
		"a config that is no JSON":            {&handmade.Raw{Bytes: configured(handmade.Digest([]byte("x")).String()), Type: types.OCIManifestSchema1, Extra: map[v1.Hash][]byte{handmade.Digest([]byte("x")): []byte("x")}}, errs.InvalidArgument},
		"a config that is not there":          {&handmade.Raw{Bytes: configured(handmade.Digest([]byte("y")).String()), Type: types.OCIManifestSchema1}, errs.NotFound},
		"a config named by what is no digest": {&handmade.Raw{Bytes: configured("sha256:../../etc/passwd"), Type: types.OCIManifestSchema1}, errs.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			reg, s := registry.New(t, registry.Options{}), open(t)
			reg.Push("app:v1", c.served)
			id, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1"})
			if !errs.Is(err, c.want) {
				t.Errorf("got %q, %v (%v), want %v", id, err, errs.KindOf(err), c.want)
			}
			empty(t, s)
		})
	}
}

func configured(digest string) []byte {
	return []byte(`{"schemaVersion":2,"config":{"digest":"` + digest + `","size":1},"layers":[]}`)
}

// nested is a list in a list, so many deep.
func nested(depth int) handmade.Served {
	var s handmade.Served = small()
	for range depth {
		b, kind, digest := s.Manifest()
		list := v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{MediaType: kind, Size: int64(len(b)), Digest: digest}}}
		raw, err := json.Marshal(list)
		if err != nil {
			panic(err)
		}
		s = &list1{handmade.Raw{Bytes: raw, Type: types.OCIImageIndex}, s}
	}
	return s
}

type list1 struct {
	handmade.Raw
	part handmade.Served
}

func (l *list1) Parts() []handmade.Served { return []handmade.Served{l.part} }

func TestNestedListIsFollowed(t *testing.T) {
	reg, s := registry.New(t, registry.Options{}), open(t)
	reg.Push("app:v1", nested(2))
	if id := pull(t, s, reg.Host()+"/app:v1"); id != small().ID() {
		t.Fatal(id)
	}
}

func TestCorruptedLayerIsRefusedAndLeavesNothing(t *testing.T) {
	for name, f := range map[string]registry.Fault{
		"a byte turned in gzip": {Corrupt: true, After: 40},
		"a byte at the end":     {Corrupt: true, After: 1 << 30},
		"bytes at the end":      {Extra: []byte("more")},
		"a byte at the start":   {Corrupt: true},
	} {
		t.Run(name, func(t *testing.T) {
			reg, s, img := registry.New(t, registry.Options{}), open(t), small()
			reg.Push("app:v1", img)
			f.Path = img.Layers[0].Digest.Hex
			reg.Fail(f)
			if _, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1"}); err == nil || errors.Is(err, image.ErrRegistryUnavailable) {
				t.Errorf("got %v", err)
			}
			empty(t, s)
			reg.Heal()
			pull(t, s, reg.Host()+"/app:v1")
		})
	}
}

func TestUnavailableRegistryIsSaidAsTheKubeletReadsIt(t *testing.T) {
	reg, s := registry.New(t, registry.Options{}), open(t)
	reg.Push("app:v1", small())
	for _, status := range []int{429, 500, 503} {
		reg.Heal()
		reg.Fail(registry.Fault{Status: status})
		_, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1"})
		if !errs.Is(err, errs.Unavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable") {
			t.Errorf("%d: got %v", status, err)
		}
	}
	if _, err := s.Pull(t.Context(), image.Pull{Ref: "not a name"}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("no name: %v", err)
	}
}
