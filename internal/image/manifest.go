package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/errs"
	"fermata/internal/image/reference"
	"fermata/internal/image/registry"
	"fermata/internal/image/store"
)

const (
	maxLayers  = 500 // what overlayfs stacks (OVL_MAX_STACK)
	maxNesting = 3   // of lists in lists
)

// incoming is an image on its way into the store.
type incoming struct {
	served, digest string // of what the name stands for, and of this platform's manifest
	raw            []byte // the manifest
	manifest       *v1.Manifest
	config         []byte
	file           *v1.ConfigFile
	name           store.Name // zero for an image without name
	pinned         bool
	blobs          map[string][]byte // kept besides
}

func (m *incoming) id() string { return m.manifest.Config.Digest.String() }

func (m *incoming) layerKey(i int) string { return m.file.RootFS.DiffIDs[i].Hex }

// chainID names the layers up to and with the i-th, by the image specification.
func (m *incoming) chainID(i int) string {
	chain := m.file.RootFS.DiffIDs[0].String()
	for _, d := range m.file.RootFS.DiffIDs[1 : i+1] {
		sum := sha256.Sum256([]byte(chain + " " + d.String()))
		chain = "sha256:" + hex.EncodeToString(sum[:])
	}
	return chain
}

// choose finds this platform's manifest under a name.
func (s *Store) choose(ctx context.Context, repo *registry.Repository, ref reference.Reference) (*incoming, error) {
	m := &incoming{}
	want := tagOrDigest(ref)
	for range maxNesting {
		got, err := repo.Manifest(ctx, want)
		if err != nil {
			return nil, err
		}
		if m.served == "" {
			m.served = got.Digest
		}
		list, manifest, err := parseManifest(got.Bytes)
		if err != nil {
			return nil, err
		}
		if manifest != nil {
			m.raw, m.manifest, m.digest = got.Bytes, manifest, got.Digest
			return m, nil
		}
		d, err := s.platform(list)
		if err != nil {
			return nil, err
		}
		want = d.Digest.String()
	}
	return nil, errs.New(errs.InvalidArgument, "manifest %s: lists of lists of lists", m.served)
}

// parseManifest reads a list or a manifest, by what it has and not by what it says it is, and refuses one that is both (CVE-2021-41190).
func parseManifest(b []byte) (*v1.IndexManifest, *v1.Manifest, error) {
	refuse := func(format string, args ...any) (*v1.IndexManifest, *v1.Manifest, error) {
		return nil, nil, errs.New(errs.InvalidArgument, "manifest: "+format, args...)
	}
	var probe struct {
		SchemaVersion int64           `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		Config        json.RawMessage `json:"config"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return refuse("%w", err)
	}
	isList, isManifest := probe.Manifests != nil, probe.Layers != nil || probe.Config != nil
	switch {
	case probe.SchemaVersion == 1 || probe.FSLayers != nil:
		return nil, nil, errs.New(errs.Unimplemented, "manifest: Docker's schema 1, which is no longer used: build or push the image again")
	case isList == isManifest:
		return refuse("neither a list nor an image, or both")
	case isList:
		var list v1.IndexManifest
		if err := json.Unmarshal(b, &list); err != nil {
			return refuse("%w", err)
		}
		return &list, nil, nil
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return refuse("%w", err)
	}
	if err := checkManifest(&m); err != nil {
		return nil, nil, err
	}
	return nil, &m, nil
}

func checkManifest(m *v1.Manifest) error {
	if t := string(m.Config.MediaType); t != "" && !strings.HasSuffix(t, ".image.config.v1+json") && !strings.HasSuffix(t, ".container.image.v1+json") {
		return errs.New(errs.Unimplemented, "manifest: of %q, not a container image", t)
	}
	if store.Hex(m.Config.Digest.String()) == "" || m.Config.Size < 0 {
		return errs.New(errs.InvalidArgument, "manifest: config digest %q", m.Config.Digest)
	}
	if len(m.Layers) > maxLayers {
		return errs.New(errs.InvalidArgument, "manifest: %d layers, over %d", len(m.Layers), maxLayers)
	}
	for _, l := range m.Layers {
		if store.Hex(l.Digest.String()) == "" || l.Size < 0 {
			return errs.New(errs.InvalidArgument, "manifest: layer digest %q", l.Digest)
		}
		if t := string(l.MediaType); t != "" && (!strings.Contains(t, ".tar") || strings.Contains(t, "encrypted")) {
			return errs.New(errs.Unimplemented, "manifest: layer of type %q", t)
		}
	}
	return nil
}

// platform chooses from a list what suits this machine best.
func (s *Store) platform(list *v1.IndexManifest) (*v1.Descriptor, error) {
	var best *v1.Descriptor
	var offered []string
	rank := -1
	for i := range list.Manifests {
		d := &list.Manifests[i]
		if store.Hex(d.Digest.String()) == "" {
			continue
		}
		r := s.suits(d.Platform)
		if d.Platform != nil {
			offered = append(offered, d.Platform.String())
		}
		if r > rank {
			best, rank = d, r
		}
	}
	if best == nil {
		slices.Sort(offered)
		return nil, errs.New(errs.NotFound, "manifest list: nothing for linux/%s, only for %s", s.o.Architecture, strings.Join(slices.Compact(offered), ", "))
	}
	return best, nil
}

// suits ranks a platform: -1 if nothing for this machine runs there.
func (s *Store) suits(p *v1.Platform) int {
	if p == nil {
		return 0
	}
	if p.OS != "linux" || p.Architecture != s.o.Architecture {
		return -1
	}
	baseline := map[string]string{"amd64": "v1", "arm64": "v8"}[p.Architecture]
	switch p.Variant {
	case s.o.Variant:
		return 4
	case "", baseline:
		return 3
	}
	return 1 // wants more than the baseline, which may or may not be there
}

// checkConfig reads the config and sees that it belongs to the manifest.
func (m *incoming) checkConfig() error {
	var c v1.ConfigFile
	if err := json.Unmarshal(m.config, &c); err != nil {
		return errs.New(errs.InvalidArgument, "image config %s: %w", m.id(), err)
	}
	if c.OS != "" && c.OS != "linux" {
		return errs.New(errs.InvalidArgument, "image config %s: for %s, not linux", m.id(), c.OS)
	}
	if len(c.RootFS.DiffIDs) != len(m.manifest.Layers) {
		return errs.New(errs.InvalidArgument, "image config %s: %d layers, the manifest has %d", m.id(), len(c.RootFS.DiffIDs), len(m.manifest.Layers))
	}
	for _, d := range c.RootFS.DiffIDs {
		if store.Hex(d.String()) == "" {
			return errs.New(errs.InvalidArgument, "image config %s: diffID %q", m.id(), d)
		}
	}
	m.file = &c
	return nil
}

// digestOf is the sha256 of bytes.
func digestOf(b []byte) string { return registry.DigestOf(b, "sha256") }
