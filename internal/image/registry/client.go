// Package registry asks registries and their mirrors for manifests and blobs, by the OCI distribution specification.
//
// It reads containerd's hosts.toml ([Hosts]), authenticates ([Credentials]), follows redirects without taking secrets along, picks up downloads that break off,
// and gives up on answers that stop coming. What is in a manifest, and what becomes of a blob, is package image's business; digests of blobs are checked where
// they are unpacked.
//
// Its own small client, and not go-containerregistry's: mirrors with their own paths, headers and authorities, and token services on private addresses, are
// refused or impossible there.
package registry

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"fermata/internal/errs"
	"fermata/internal/image/reference"
)

// Options are the same for every pull.
type Options struct {
	// Dir is where hosts.toml files are, see [Hosts].
	Dir string
	// Stall is after how long without a byte a request is given up.
	Stall time.Duration
	// UserAgent is sent with every request.
	UserAgent string
}

// MaxManifest bounds a manifest, and what [Repository.Small] reads.
const MaxManifest = 8 << 20

// Repository is where one image comes from. It is made for one pull and closed after it.
type Repository struct {
	ref       reference.Reference
	o         Options
	endpoints []*endpoint
}

// endpoint is one host with its connections and what it wants as authorization.
type endpoint struct {
	host        Host
	repository  string
	namespace   string // of the registry's own name, sent to mirrors
	credentials *Credentials
	o           Options
	client      *http.Client

	mu            sync.Mutex
	authorization string
}

// New reads the configuration for ref's registry. Credentials may be nil.
func New(ref reference.Reference, c *Credentials, o Options) (*Repository, error) {
	c, err := c.Check()
	if err != nil {
		return nil, err
	}
	hosts, err := Hosts(o.Dir, ref.Domain)
	if err != nil {
		return nil, err
	}
	r := &Repository{ref: ref, o: o}
	for _, h := range hosts {
		e := &endpoint{host: h, repository: ref.Path, o: o, client: newClient(h)}
		if h.Mirror {
			e.namespace = ref.Domain
		}
		if c.meantFor(h, ref) {
			e.credentials = c
		}
		r.endpoints = append(r.endpoints, e)
	}
	return r, nil
}

// Close closes idle connections.
func (r *Repository) Close() {
	for _, e := range r.endpoints {
		e.client.CloseIdleConnections()
	}
}

var errDowngrade = errors.New("a redirect from https to http is not followed")

func newClient(h Host) *http.Client {
	timeout := h.DialTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:     h.TLS.Clone(),
			TLSHandshakeTimeout: 30 * time.Second,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true, // bytes must be those that the digest is of
			ReadBufferSize:      64 << 10,
			// HTTP/1 on purpose: several layers at once are faster over several connections.
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			first := via[0].URL
			if len(via) > 10 {
				return errors.New("over 10 redirects")
			}
			if first.Scheme == "https" && req.URL.Scheme != "https" {
				return errDowngrade
			}
			// Go compares host names without ports and knows nothing of the configured headers.
			if req.URL.Host != first.Host {
				req.Header.Del("Authorization")
				for k := range h.Header {
					req.Header.Del(k)
				}
			}
			return nil
		},
	}
}

// Manifest is a manifest or a list of manifests, as served.
type Manifest struct {
	Bytes     []byte
	MediaType string
	// Digest is checked: it is that of Bytes.
	Digest string
}

const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1"

// Manifest fetches by tag or digest. A digest is checked.
func (r *Repository) Manifest(ctx context.Context, tagOrDigest string) (*Manifest, error) {
	byDigest := reference.ValidDigest(tagOrDigest)
	var m *Manifest
	err := r.each(byDigest, func(e *endpoint) error {
		body, resp, err := e.get(ctx, http.MethodGet, "manifests/"+tagOrDigest, http.Header{"Accept": {accept}})
		if err != nil {
			return err
		}
		defer body.Close()
		b, err := io.ReadAll(io.LimitReader(body, MaxManifest+1))
		if err != nil {
			return requestError(resp.Request, err)
		}
		if len(b) > MaxManifest {
			return errs.New(errs.InvalidArgument, "manifest %s: over %d bytes", tagOrDigest, MaxManifest)
		}
		mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		m = &Manifest{b, strings.TrimSpace(mediaType), DigestOf(b, "sha256")}
		if algorithm, _, _ := strings.Cut(tagOrDigest, ":"); byDigest {
			if m.Digest = DigestOf(b, algorithm); m.Digest != tagOrDigest {
				return errs.New(errs.InvalidArgument, "manifest %s: its digest is %s", tagOrDigest, m.Digest)
			}
		}
		return nil
	})
	return m, err
}

// Head asks which digest a tag stands for, "" if the registry does not say. It also shows that the credentials will do.
func (r *Repository) Head(ctx context.Context, tagOrDigest string) (digest string, err error) {
	err = r.each(reference.ValidDigest(tagOrDigest), func(e *endpoint) error {
		body, resp, err := e.get(ctx, http.MethodHead, "manifests/"+tagOrDigest, http.Header{"Accept": {accept}})
		if err != nil {
			return err
		}
		digest = resp.Header.Get("Docker-Content-Digest")
		return body.Close()
	})
	return digest, err
}

// DigestOf is the digest of bytes; "" for an algorithm that is not known.
func DigestOf(b []byte, algorithm string) string {
	switch algorithm {
	case "sha256":
		sum := sha256.Sum256(b)
		return "sha256:" + hex.EncodeToString(sum[:])
	case "sha512":
		sum := sha512.Sum512(b)
		return "sha512:" + hex.EncodeToString(sum[:])
	}
	return ""
}

// Small fetches a blob of at most [MaxManifest] bytes, and checks its digest.
func (r *Repository) Small(ctx context.Context, digest string, size int64) ([]byte, error) {
	if size > MaxManifest {
		return nil, errs.New(errs.InvalidArgument, "blob %s: over %d bytes", digest, MaxManifest)
	}
	body, err := r.Blob(ctx, digest, size)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, MaxManifest+1))
	if err != nil {
		return nil, err
	}
	algorithm, _, _ := strings.Cut(digest, ":")
	if got := DigestOf(b, algorithm); got != digest {
		return nil, errs.New(errs.InvalidArgument, "blob %s: its digest is %s", digest, got)
	}
	return b, nil
}

// each asks one host after the other until one gives. The error is the last one's: the registry's own; those of mirrors are told with it.
func (r *Repository) each(byDigest bool, ask func(*endpoint) error) error {
	var said []string
	err := errs.New(errs.FailedPrecondition, "no host is configured to pull %s from", r.ref.Domain)
	for _, e := range r.endpoints {
		if byDigest && !e.host.Pull || !byDigest && !e.host.Resolve {
			continue
		}
		if err = ask(e); err == nil {
			return nil
		}
		if k := errs.KindOf(err); k == errs.Canceled || k == errs.DeadlineExceeded {
			return err
		}
		said = append(said, err.Error())
	}
	if len(said) > 1 {
		err = fmt.Errorf("%w (before that: %s)", err, strings.Join(said[:len(said)-1], "; "))
	}
	return err
}

// get sends a request for something of the repository, authenticating when asked to. The answer is 200 or 206; the body must be closed.
func (e *endpoint) get(ctx context.Context, method, what string, header http.Header) (io.ReadCloser, *http.Response, error) {
	u := e.host.Base
	u.Path += "/" + e.repository + "/" + what
	if e.namespace != "" {
		u.RawQuery = url.Values{"ns": {e.namespace}}.Encode()
	}
	e.mu.Lock()
	authorization := e.authorization
	e.mu.Unlock()
	for again := false; ; again = true {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, nil, err
		}
		for k, v := range header {
			req.Header[k] = v
		}
		for k, v := range e.host.Header {
			req.Header[k] = v
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := e.send(req)
		if err != nil {
			return nil, nil, err
		}
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
			e.mu.Lock()
			e.authorization = authorization
			e.mu.Unlock()
			return resp.Body, resp, nil
		}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
		resp.Body.Close()
		refused := statusError(req, resp.StatusCode, said(b))
		if resp.StatusCode != http.StatusUnauthorized || again {
			return nil, nil, refused
		}
		next, err := e.authorize(ctx, parseChallenges(resp.Header.Values("WWW-Authenticate")))
		if err != nil {
			return nil, nil, err
		}
		if next == "" {
			return nil, nil, refused
		}
		authorization = next
	}
}

// send sends a request and watches that its answer keeps coming.
func (e *endpoint) send(req *http.Request) (*http.Response, error) {
	if e.o.UserAgent != "" {
		req.Header.Set("User-Agent", e.o.UserAgent)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watched{stall: e.o.Stall, cancel: cancel}
	w.timer = time.AfterFunc(e.o.Stall, func() { cancel(fmt.Errorf("%w for %v", errStalled, e.o.Stall)) })
	w.req = req.WithContext(ctx)
	resp, err := e.client.Do(w.req)
	if err != nil {
		err = requestError(w.req, err) // before end, which cancels
		w.end()
		return nil, err
	}
	w.timer.Reset(e.o.Stall)
	w.body, resp.Body = resp.Body, w
	return resp, nil
}

// watched is a body that must keep coming.
type watched struct {
	req    *http.Request
	body   io.ReadCloser
	stall  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	if err != nil && err != io.EOF {
		err = requestError(w.req, err)
	}
	return n, err
}

func (w *watched) Close() error {
	w.end()
	return w.body.Close()
}

func (w *watched) end() {
	w.timer.Stop()
	w.cancel(nil)
}
