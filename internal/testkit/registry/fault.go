package registry

import (
	"net/http"
	"strconv"
	"strings"
)

// Fault is one way to fail, for the next Times requests whose path contains Path (every one if Times is 0). The first set of the others counts.
type Fault struct {
	// Path is part of the request's path: "/blobs/", a digest, "/token".
	Path  string
	Times int
	// Method limits the fault to one method; "" means any.
	Method string

	// Status answers with an error of this HTTP status.
	Status int
	// Stall sends After bytes of the body (headers only with 0) and then nothing until the client goes away.
	Stall bool
	// Cut sends After bytes of the body and closes the connection.
	Cut   bool
	After int
	// Corrupt turns the byte at After around.
	Corrupt bool
	// Redirect answers with a redirect to this URL plus the request's path.
	Redirect string
	// Extra bytes are added to the end of the body.
	Extra []byte
	// Hook runs before anything is answered, on the request's goroutine.
	Hook func(*http.Request)

	used int
}

// Fail adds a fault; earlier ones are looked at first.
func (r *Registry) Fail(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &f)
}

// Heal removes every fault.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

func (r *Registry) fault(q *http.Request) *Fault {
	for _, f := range r.faults {
		if !strings.Contains(q.URL.Path, f.Path) || f.Method != "" && f.Method != q.Method || f.Times > 0 && f.used >= f.Times {
			continue
		}
		f.used++
		return f
	}
	return nil
}

// before acts on faults that need no body; true if the answer is given.
func (f *Fault) before(r *Registry, w http.ResponseWriter, q *http.Request) bool {
	if f.Hook != nil {
		f.Hook(q)
	}
	switch {
	case f.Status != 0:
		fail(w, f.Status, "FAULT", http.StatusText(f.Status))
		return true
	case f.Redirect != "":
		http.Redirect(w, q, f.Redirect+q.URL.RequestURI(), http.StatusTemporaryRedirect)
		return true
	case f.Stall && !strings.Contains(q.URL.Path, "/blobs/"):
		r.wait(q)
		return true
	case f.Cut && !strings.Contains(q.URL.Path, "/blobs/"):
		panic(http.ErrAbortHandler)
	}
	return false
}

// body acts on faults of a blob's body; true if the answer is given.
func (f *Fault) body(r *Registry, w http.ResponseWriter, q *http.Request, blob []byte) bool {
	switch {
	case f.Stall, f.Cut:
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		_, _ = w.Write(blob[:min(f.After, len(blob))])
		w.(http.Flusher).Flush()
		if f.Cut {
			panic(http.ErrAbortHandler)
		}
		r.wait(q)
		return true
	case f.Corrupt:
		bad := append([]byte(nil), blob...)
		bad[min(f.After, len(bad)-1)] ^= 0xff
		_, _ = w.Write(bad)
		return true
	case f.Extra != nil:
		w.Header().Set("Transfer-Encoding", "chunked")
		_, _ = w.Write(blob)
		_, _ = w.Write(f.Extra)
		return true
	}
	return false
}

// wait holds an answer back until the client or the registry goes away.
func (r *Registry) wait(q *http.Request) {
	select {
	case <-q.Context().Done():
	case <-r.stopped:
	}
}
