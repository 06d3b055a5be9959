package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Registry serves images on a port of this machine, for every registry's name alike.
type Registry struct {
	// Address is host:port.
	Address string
	// Images are what is served, by public reference.
	Images map[string]v1.Image

	server *http.Server
	ended  chan error
}

// Directory, when set in the environment, is where [Serve] finds images that [Save] wrote, instead of building them: in a virtual
// machine there is nothing to build with.
const Directory = "FERMATA_TEST_IMAGES"

// Save writes images for [Serve] to find.
func Save(dir string, images map[string]v1.Image) error {
	for ref, img := range images {
		parsed, err := name.ParseReference(ref)
		if err != nil {
			return err
		}
		if err := tarball.WriteToFile(filepath.Join(dir, url.PathEscape(ref)+".tar"), parsed, img); err != nil {
			return err
		}
	}
	return nil
}

func saved(dir string) (map[string]v1.Image, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	images := map[string]v1.Image{}
	for _, e := range entries {
		ref, err := url.PathUnescape(strings.TrimSuffix(e.Name(), ".tar"))
		if err != nil {
			return nil, err
		}
		if images[ref], err = tarball.ImageFromPath(filepath.Join(dir, e.Name()), nil); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// Serve serves all images on a loopback port until Close: built now, or found in [Directory].
func Serve(ctx context.Context) (*Registry, error) { return ServeAt(ctx, "127.0.0.1:0") }

// ServeAt is Serve at an address ("198.18.0.1:0") that other network namespaces reach.
func ServeAt(ctx context.Context, address string) (*Registry, error) {
	get := All
	if dir := os.Getenv(Directory); dir != "" {
		get = func(context.Context) (map[string]v1.Image, error) { return saved(dir) }
	}
	images, err := get(ctx)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0)
	r := &Registry{Address: listener.Addr().String(), Images: images, ended: make(chan error, 1)}
	r.server = &http.Server{Handler: registry.New(registry.Logger(quiet)), ErrorLog: quiet}
	go func() { r.ended <- r.server.Serve(listener) }()
	for public, img := range images {
		if err := put(ctx, r.server.Handler, public, img); err != nil {
			r.Close()
			return nil, fmt.Errorf("serve image %s: %w", public, err)
		}
	}
	return r, nil
}

// put uploads an image by the registry's own protocol, without a connection.
func put(ctx context.Context, registry http.Handler, public string, img v1.Image) error {
	ref, err := name.ParseReference(public)
	if err != nil {
		return err
	}
	do := func(method, path, kind string, body []byte) error {
		request, err := http.NewRequestWithContext(ctx, method, "/v2/"+ref.Context().RepositoryStr()+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", kind)
		answer := httptest.NewRecorder()
		registry.ServeHTTP(answer, request)
		if answer.Code/100 != 2 {
			return fmt.Errorf("%s %s: %d %s", method, path, answer.Code, answer.Body)
		}
		return nil
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return err
	}
	for _, l := range append(layers, config) {
		digest, err := l.Digest()
		if err != nil {
			return err
		}
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if err := do("POST", "/blobs/uploads/?digest="+digest.String(), "application/octet-stream", data); err != nil {
			return err
		}
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	kind, err := img.MediaType()
	if err != nil {
		return err
	}
	return do("PUT", "/manifests/"+ref.Identifier(), string(kind), manifest)
}

// Close stops serving.
func (r *Registry) Close() error {
	err := r.server.Close()
	<-r.ended
	return err
}

// Mirrors writes a directory in the form of containerd's certs.d, with which every registry critest names is looked for here.
func (r *Registry) Mirrors(dir string) error {
	for _, host := range []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io"} {
		if err := os.MkdirAll(filepath.Join(dir, host), 0o755); err != nil {
			return err
		}
		toml := fmt.Sprintf("server = \"http://%[1]s\"\n\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", r.Address)
		if err := os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(toml), 0o644); err != nil {
			return err
		}
	}
	return nil
}
