package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"fermata/internal/errs"
	"fermata/internal/image/layers"
	"fermata/internal/image/reference"
	"fermata/internal/image/registry"
	"fermata/internal/image/store"
	"fermata/internal/undo"
)

// ErrRegistryUnavailable is in the chain of a pull's failure that is the registry's being away; the text then begins with "RegistryUnavailable", for
// which the kubelet looks.
var ErrRegistryUnavailable = registry.ErrUnavailable

// progressEvery is how often a caller is told of its pull.
const progressEvery = 250 * time.Millisecond

// flight is one pull under way, and those who wait for it.
type flight struct {
	ref     string
	began   time.Time
	waiters int // mu of the store
	cancel  context.CancelCauseFunc
	done    chan struct{}
	id      string // after done
	err     error

	bytes, total        atomic.Int64
	layers, layersTotal atomic.Int64
}

func (f *flight) progress() Progress {
	return Progress{Bytes: f.bytes.Load(), Total: f.total.Load(), Layers: int(f.layers.Load()), LayersTotal: int(f.layersTotal.Load())}
}

// Pull fetches an image and returns its id. The registry is asked in any case: also for an image that is here, because the credentials may not do. What is
// here already is not fetched again. The same pull asked for twice at once is one; it goes on for as long as somebody waits for it, and leaves nothing when
// it fails. Kinds: InvalidArgument (name, or an image that breaks the rules), NotFound, PermissionDenied, Unavailable, DeadlineExceeded, Canceled.
func (s *Store) Pull(ctx context.Context, p Pull) (id string, err error) {
	ref, err := reference.Parse(p.Ref)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", pullError(ref, context.Cause(ctx))
	}
	f, key, err := s.join(ref, p.Credentials)
	if err != nil {
		return "", err
	}
	var tick <-chan time.Time
	if p.Progress != nil {
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-tick:
			p.Progress(f.progress())
		case <-f.done:
			if p.Progress != nil {
				p.Progress(f.progress())
			}
			return f.id, f.err
		case <-ctx.Done():
			if s.leave(ctx, f, key) && f.err == nil { // it was done after all
				return f.id, nil
			}
			return "", pullError(ref, context.Cause(ctx))
		}
	}
}

// join finds the pull under way for a name and credentials, or starts it.
func (s *Store) join(ref reference.Reference, c *Credentials) (*flight, string, error) {
	key := ref.String()
	if c != nil {
		key += fmt.Sprintf(" %x", sha256.Sum256(fmt.Appendf(nil, "%q", []string{c.Username, c.Password, c.Auth, c.ServerAddress, c.IdentityToken, c.RegistryToken})))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return nil, "", errs.New(errs.Unavailable, "pull image %q: the store is closing", ref)
	}
	f := s.pulls[key]
	if f == nil {
		ctx, cancel := context.WithCancelCause(s.life)
		f = &flight{ref: ref.String(), began: time.Now(), cancel: cancel, done: make(chan struct{})}
		s.pulls[key] = f
		s.background.Go(func() {
			var id string
			err := errs.Guard(func() (err error) { id, err = s.fetch(ctx, f, ref, (*registry.Credentials)(c)); return err })
			s.mu.Lock()
			if s.pulls[key] == f {
				delete(s.pulls, key)
			}
			f.id, f.err = id, pullError(ref, err)
			s.rememberPull(f)
			s.mu.Unlock()
			cancel(nil)
			close(f.done)
		})
	}
	f.waiters++
	return f, key, nil
}

// leave gives a pull up; the last who does so ends it, waits until nothing of it is left, and gets true.
func (s *Store) leave(ctx context.Context, f *flight, key string) bool {
	s.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last {
		f.cancel(context.Cause(ctx))
		if s.pulls[key] == f {
			delete(s.pulls, key) // whoever comes now starts anew
		}
	}
	s.mu.Unlock()
	if last {
		<-f.done
	}
	return last
}

// pullError names the image, and puts the kubelet's word first.
func pullError(ref reference.Reference, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrRegistryUnavailable):
		return errs.Blame(errs.New(errs.Unavailable, "RegistryUnavailable: pull image %q: %w", ref, err), "registry", ref.Domain)
	}
	told := fmt.Errorf("pull image %q: %w", ref, err)
	switch errs.KindOf(err) {
	case errs.PermissionDenied:
		return errs.Blame(told, "credentials for", ref.Domain)
	case errs.NotFound:
		return errs.Blame(told, "image", ref.String())
	case errs.Unavailable, errs.DeadlineExceeded:
		return errs.Blame(told, "registry", ref.Domain)
	}
	return told
}

// fetch is a pull: what the registry has under the name, the layers that are missing, the record.
func (s *Store) fetch(ctx context.Context, f *flight, ref reference.Reference, c *registry.Credentials) (string, error) {
	repo, err := registry.New(ref, c, registry.Options{Dir: s.o.RegistriesDir, Stall: s.o.StallTimeout, UserAgent: s.o.UserAgent})
	if err != nil {
		return "", err
	}
	defer repo.Close()
	if id, err := s.unchanged(ctx, repo, ref); id != "" || err != nil {
		return id, err
	}
	var m *incoming
	if err := undo.Step("pull/manifest", func() (err error) { m, err = s.choose(ctx, repo, ref); return err }); err != nil {
		return "", err
	}
	m.name = store.Name{Repository: ref.Repository(), Tag: ref.Tag, Digest: m.served, Manifest: m.digest}
	if ref.Digest != "" {
		m.name.Tag = ""
	}
	if m.config, err = s.disk.Blob(m.id()); err != nil {
		if m.config, err = repo.Small(ctx, m.id(), m.manifest.Config.Size); err != nil {
			return "", err
		}
	}
	if err := m.checkConfig(); err != nil {
		return "", err
	}
	open := func(ctx context.Context, i int) (io.ReadCloser, error) {
		d := m.manifest.Layers[i]
		return repo.Blob(ctx, d.Digest.String(), d.Size)
	}
	return s.bring(ctx, f, m, open)
}

// unchanged finds the image that is here under a name, if the registry says that it is still the one meant.
func (s *Store) unchanged(ctx context.Context, repo *registry.Repository, ref reference.Reference) (string, error) {
	s.mu.RLock()
	var id string
	known := map[string]bool{}
	if e := s.named(ref); e != nil {
		id = e.record.ID
		for _, n := range e.record.Names {
			if n.Repository == ref.Repository() && (ref.Digest != "" || n.Tag == ref.Tag) {
				known[n.Digest], known[n.Manifest] = true, true
			}
		}
	}
	s.mu.RUnlock()
	if id == "" {
		return "", nil
	}
	digest, err := repo.Head(ctx, tagOrDigest(ref))
	if errors.Is(err, ErrRegistryUnavailable) || ctx.Err() != nil {
		return "", err
	}
	if err != nil || digest == "" || !known[digest] || ref.Digest != "" && digest != ref.Digest {
		return "", nil // asking for the manifest itself tells more
	}
	return id, nil
}

func tagOrDigest(ref reference.Reference) string {
	if ref.Digest != "" {
		return ref.Digest
	}
	return ref.Tag
}

// opener opens the i-th layer as it is served.
type opener func(ctx context.Context, i int) (io.ReadCloser, error)

// bring gets the layers of an image that are missing and makes it appear.
func (s *Store) bring(ctx context.Context, f *flight, m *incoming, open opener) (string, error) {
	b := &bringing{s: s, f: f, m: m, open: open, alone: make([]error, len(m.manifest.Layers))}
	defer b.unpin()
	for _, l := range m.manifest.Layers {
		f.total.Add(l.Size)
	}
	f.layersTotal.Store(int64(len(m.manifest.Layers)))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(layersAPull)
	for i := range m.manifest.Layers {
		group.Go(func() error {
			err := b.want(gctx, m.layerKey(i), func(ctx context.Context) error { return b.unpackAlone(ctx, i) })
			if errors.Is(err, layers.ErrNeedsBase) {
				b.alone[i] = err
				return nil
			}
			if err == nil {
				f.layers.Add(1)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	var refs []store.LayerRef
	if err := undo.Step("pull/stack", func() (err error) { refs, err = b.stack(ctx); return err }); err != nil {
		return "", err
	}
	return m.id(), undo.Step("pull/record", func() error { return s.appear(ctx, m, refs) })
}

// bringing is one image's way into the store.
type bringing struct {
	s     *Store
	f     *flight
	m     *incoming
	open  opener
	alone []error // by layer: ErrNeedsBase

	mu     sync.Mutex
	pinned []store.LayerRef
}

// making is one layer being made, and those who wait for it. All is guarded by the store's mu.
type making struct {
	waiters int
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
	ended   bool
}

// want returns once a layer is there, and pins it until [bringing.unpin]. If nobody is making it, make does, for as long as somebody waits.
func (b *bringing) want(ctx context.Context, key string, make func(context.Context) error) error {
	for {
		m, ours, err := b.s.enter(key, make)
		if err != nil {
			return err
		}
		if m == nil {
			b.pin(key)
			return nil
		}
		select {
		case <-m.done:
		case <-ctx.Done():
			if b.s.quit(key, m) {
				b.pin(key) // it was made after all; freed with the rest
			}
			return context.Cause(ctx)
		}
		if m.err == nil {
			b.pin(key)
			return nil
		}
		if ours || errors.Is(m.err, layers.ErrNeedsBase) {
			return m.err
		}
		// Another pull's source failed; this one has its own.
	}
}

func (b *bringing) pin(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pinned = append(b.pinned, store.LayerRef{Key: key})
}

// unpin lets go of every layer pinned, and frees those that belong to no image: after a failure, all that this pull brought.
func (b *bringing) unpin() {
	b.s.mu.Lock()
	for _, ref := range b.pinned {
		b.s.layers[ref.Key].pins--
	}
	b.s.mu.Unlock()
	_ = b.s.free(b.pinned) // what cannot be deleted is swept by the next Open
}

// enter pins a layer that is there (nil), or joins or starts its making.
func (s *Store) enter(key string, do func(context.Context) error) (m *making, ours bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[key]; l != nil {
		l.pins++
		return nil, false, nil
	}
	if s.life.Err() != nil {
		return nil, false, errs.New(errs.Unavailable, "the image store is closing")
	}
	m = s.making[key]
	if m == nil {
		ctx, cancel := context.WithCancel(s.life)
		m, ours = &making{cancel: cancel, done: make(chan struct{})}, true
		s.making[key] = m
		s.background.Go(func() {
			defer cancel()
			s.ended(key, m, errs.Guard(func() error { return s.inSlot(ctx, do) }))
		})
	}
	m.waiters++
	return m, ours, nil
}

// inSlot bounds how many layers are unpacked at once.
func (s *Store) inSlot(ctx context.Context, do func(context.Context) error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		return do(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ended takes a finished layer into memory, with a pin for everyone who waited.
func (s *Store) ended(key string, m *making, err error) {
	var d *store.Layer
	if err == nil {
		d, err = s.disk.Layer(key)
	}
	s.mu.Lock()
	m.err, m.ended = err, true
	if s.making[key] == m {
		delete(s.making, key)
	}
	if err == nil {
		s.layers[key] = &layer{bytes: d.Bytes, inodes: d.Inodes, pins: m.waiters}
	}
	orphan := err == nil && m.waiters == 0
	s.mu.Unlock()
	if orphan {
		_ = s.free([]store.LayerRef{{Key: key}})
	}
	close(m.done)
}

// quit stops waiting for a layer; the last who does so ends its making, and waits until nothing is left. It returns true if the layer was made and is pinned.
func (s *Store) quit(key string, m *making) bool {
	s.mu.Lock()
	if m.ended {
		s.mu.Unlock()
		return m.err == nil
	}
	m.waiters--
	last := m.waiters == 0
	if last {
		m.cancel()
		if s.making[key] == m {
			delete(s.making, key)
		}
	}
	s.mu.Unlock()
	if last {
		<-m.done
	}
	return false
}
