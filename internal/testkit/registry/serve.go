package registry

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ServeHTTP answers one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	rec := &recorder{ResponseWriter: w}
	r.mu.Lock()
	n := len(r.requests)
	r.requests = append(r.requests, Request{Method: q.Method, Path: q.URL.Path, Query: q.URL.RawQuery, Header: q.Header.Clone()})
	fault := r.fault(q)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if n < len(r.requests) {
			r.requests[n].Status = rec.status
		}
	}()
	if fault != nil && fault.before(r, rec, q) {
		return
	}
	if r.o.Auth != nil && r.o.Auth.refuse(r, rec, q) {
		return
	}
	path, ok := strings.CutPrefix(q.URL.Path, "/v2/")
	switch {
	case !ok:
		fail(rec, http.StatusNotFound, "NOT_FOUND", q.URL.Path)
	case path == "":
		rec.WriteHeader(http.StatusOK)
	case strings.Contains(path, "/manifests/"):
		repo, ref, _ := strings.Cut(path, "/manifests/")
		r.serveManifest(rec, q, repo, ref)
	case strings.Contains(path, "/blobs/"):
		repo, digest, _ := strings.Cut(path, "/blobs/")
		r.serveBlob(rec, q, repo+"@"+digest, fault)
	default:
		fail(rec, http.StatusNotFound, "NOT_FOUND", q.URL.Path)
	}
}

func (r *Registry) serveManifest(w http.ResponseWriter, q *http.Request, repo, ref string) {
	key := repo + ":" + ref
	if strings.Contains(ref, ":") {
		key = repo + "@" + ref
	}
	r.mu.Lock()
	m, ok := r.manifests[key]
	r.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown to this registry: "+key)
		return
	}
	w.Header().Set("Content-Type", string(m.kind))
	w.Header().Set("Docker-Content-Digest", m.digest.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(m.bytes)))
	if q.Method == http.MethodHead {
		return
	}
	_, _ = w.Write(m.bytes)
}

func (r *Registry) serveBlob(w http.ResponseWriter, q *http.Request, key string, fault *Fault) {
	r.mu.Lock()
	blob, ok := r.blobs[key]
	r.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", key)
		return
	}
	if fault != nil && fault.body(r, w, q, blob) {
		return
	}
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(blob))
}

// fail answers with an error in the distribution's form.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"errors":[{"code":`+strconv.Quote(code)+`,"message":`+strconv.Quote(message)+`}]}`)
}

// recorder notes the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

func (r *recorder) Flush() { r.ResponseWriter.(http.Flusher).Flush() }

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
