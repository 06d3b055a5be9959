// Package registry is an OCI registry on loopback for tests: it serves what package testkit/handmade builds, over HTTP or HTTPS, open or behind basic
// or bearer authentication, counts what it is asked, and fails in the ways real registries fail.
//
//	reg := registry.New(t, registry.Options{})
//	reg.Push("library/busybox:latest", img)
//	… pull reg.Host() + "/library/busybox:latest" …
package registry

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"fermata/internal/testkit/handmade"
)

// Options says what kind of registry it is. The zero value is an open one over HTTP.
type Options struct {
	// TLS serves HTTPS with a certificate of an own authority, see [Registry.CA].
	TLS bool
	// Auth demands authentication; nil for none.
	Auth *Auth
	// Address to listen on, "127.0.0.1:0" if empty.
	Address string
}

// Registry is a running registry.
type Registry struct {
	o        Options
	listener net.Listener
	server   *http.Server
	served   chan struct{}
	ca       []byte // PEM
	stopped  chan struct{}

	mu        sync.Mutex
	manifests map[string]manifest // "repo:tag" and "repo@digest"
	blobs     map[string][]byte   // "repo@digest"
	requests  []Request
	faults    []*Fault
}

type manifest struct {
	bytes  []byte
	kind   types.MediaType
	digest v1.Hash
}

// Request is one request that arrived.
type Request struct {
	Method, Path, Query string
	Header              http.Header
	// Status is what was answered; 0 while it is being answered.
	Status int
}

// New starts a registry that stops with the test.
func New(t testing.TB, o Options) *Registry {
	t.Helper()
	r, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Start starts a registry; the caller closes it.
func Start(o Options) (*Registry, error) {
	address := o.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	r := &Registry{o: o, served: make(chan struct{}), stopped: make(chan struct{}),
		manifests: map[string]manifest{}, blobs: map[string][]byte{}}
	r.listener = l
	if o.TLS {
		if r.listener, r.ca, err = secure(l); err != nil {
			return nil, err
		}
	}
	r.server = &http.Server{Handler: r, ErrorLog: quiet()}
	go func() {
		defer close(r.served)
		_ = r.server.Serve(r.listener)
	}()
	return r, nil
}

// Close stops serving, ends stalled answers and waits.
func (r *Registry) Close() error {
	close(r.stopped)
	err := r.server.Close()
	<-r.served
	return err
}

// Host is "127.0.0.1:port", as it stands in an image's name.
func (r *Registry) Host() string { return r.listener.Addr().String() }

// URL is the registry's base URL.
func (r *Registry) URL() string {
	if r.o.TLS {
		return "https://" + r.Host()
	}
	return "http://" + r.Host()
}

// CA is the PEM certificate of the authority that signed the registry's, nil without TLS.
func (r *Registry) CA() []byte { return r.ca }

// Mirror writes <dir>/<host>/hosts.toml for each host so that names of these hosts are pulled from this registry and from nowhere else.
func (r *Registry) Mirror(dir string, hosts ...string) error {
	for _, h := range hosts {
		d := filepath.Join(dir, h)
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		text := fmt.Sprintf("server = %q\n\n[host.%q]\n", r.URL(), r.URL())
		if r.ca != nil {
			text = fmt.Sprintf("server = %q\nca = \"ca.pem\"\n", r.URL())
			if err := os.WriteFile(filepath.Join(d, "ca.pem"), r.ca, 0o644); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(d, "hosts.toml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Push makes an image or index available as "repository:tag" and by its digest, with all its parts.
func (r *Registry) Push(name string, s handmade.Served) {
	r.mu.Lock()
	defer r.mu.Unlock()
	repo, tag, _ := strings.Cut(name, ":")
	r.push(repo, tag, s)
}

func (r *Registry) push(repo, tag string, s handmade.Served) {
	b, kind, digest := s.Manifest()
	m := manifest{b, kind, digest}
	r.manifests[repo+"@"+digest.String()] = m
	if tag != "" {
		r.manifests[repo+":"+tag] = m
	}
	for d, blob := range s.Blobs() {
		r.blobs[repo+"@"+d.String()] = blob
	}
	for _, p := range s.Parts() {
		r.push(repo, "", p)
	}
}

// Requests returns every request so far, in order of arrival.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Request(nil), r.requests...)
}

// Count returns how many requests of a method had a path containing part; an empty method counts all.
func (r *Registry) Count(method, part string) int {
	n := 0
	for _, q := range r.Requests() {
		if (method == "" || q.Method == method) && strings.Contains(q.Path, part) {
			n++
		}
	}
	return n
}

// Forget forgets the requests so far.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// Pretend serves a manifest under a digest that is not its own.
func (r *Registry) Pretend(repo, digest string, b []byte, kind types.MediaType) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[repo+"@"+digest] = manifest{bytes: b, kind: kind}
}
