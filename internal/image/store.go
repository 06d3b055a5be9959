package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/errs"
	"fermata/internal/image/store"
)

const (
	defaultStall     = 5 * time.Minute
	layersAPull      = 3 // as containerd's max_concurrent_downloads
	layersAltogether = 8
)

// Store is the images of one node. It is safe for concurrent use.
type Store struct {
	o        Options
	disk     *store.Store
	problems []string

	// stop ends everything that runs in the background; Close waits for it.
	stop       context.CancelFunc
	life       context.Context
	background sync.WaitGroup
	swept      chan struct{} // closed when what Open swept is deleted

	slots chan struct{} // of layers being unpacked at once

	// commit is held while records change on disk, so that mu is never held over I/O. It is taken before mu.
	commit sync.Mutex

	mu       sync.RWMutex
	images   map[string]*entry  // by id
	layers   map[string]*layer  // by key, complete ones
	holds    map[string]string  // user → image id
	pulls    map[string]*flight // by name and credentials
	attempts []Attempt          // that ended, oldest first
	making   map[string]*making // by layer key
}

// entry is one image in memory.
type entry struct {
	record  *store.Record // replaced, never changed
	config  v1.Config
	created time.Time
	diffIDs []string
}

// layer is one complete layer in memory.
type layer struct {
	bytes, inodes uint64
	images        int  // records that name it
	pins          int  // pulls that count on it
	synced        bool // a record that names it has been written with sync
}

// Open opens the store below o.Root, making it if need be, sets aside records that cannot be read ([Store.Problems]) and sweeps what a crash left half done.
func Open(o Options) (*Store, error) {
	if o.StallTimeout == 0 {
		o.StallTimeout = defaultStall
	}
	if o.Architecture == "" {
		o.Architecture = runtime.GOARCH
	}
	if o.UserAgent == "" {
		o.UserAgent = "fermata"
	}
	disk, err := store.Open(filepath.Join(o.Root, "images"))
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{o: o, disk: disk, slots: make(chan struct{}, layersAltogether), images: map[string]*entry{}, layers: map[string]*layer{},
		holds: map[string]string{}, pulls: map[string]*flight{}, making: map[string]*making{}, swept: make(chan struct{})}
	if err := s.read(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s.life, s.stop = context.WithCancel(context.Background())
	if err := s.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("sweep image store: %w", err), s.Close())
	}
	return s, nil
}

// Problems says what Open had to set aside, one sentence each.
func (s *Store) Problems() []string { return slices.Clone(s.problems) }

// Close ends pulls and sweeping, waits for them, and gives everything back.
func (s *Store) Close() error {
	s.stop()
	s.background.Wait()
	return nil
}

// read takes every record into memory.
func (s *Store) read() error {
	records, problems, err := s.disk.Records()
	if err != nil {
		return err
	}
	s.problems = problems
	for _, r := range records {
		why := s.admit(r)
		if why == nil {
			continue
		}
		problem, err := s.disk.SetAside(r.ID, why)
		if err != nil {
			return err
		}
		s.problems = append(s.problems, problem)
	}
	s.settleTags()
	return nil
}

// admit takes one record into memory, or nothing of it; the caller is alone.
func (s *Store) admit(r *store.Record) error {
	raw, err := s.disk.Blob(r.ID)
	if err != nil {
		return err
	}
	e, err := newEntry(r, raw)
	if err != nil {
		return err
	}
	found := map[string]*layer{}
	for _, ref := range r.Layers {
		if s.layers[ref.Key] == nil && found[ref.Key] == nil {
			d, err := s.disk.Layer(ref.Key)
			if err != nil {
				return err
			}
			found[ref.Key] = &layer{bytes: d.Bytes, inodes: d.Inodes, synced: true}
		}
	}
	maps.Copy(s.layers, found)
	s.countImages(r.Layers, +1)
	s.images[r.ID] = e
	return nil
}

func newEntry(r *store.Record, raw []byte) (*entry, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, errs.New(errs.InvalidArgument, "config of image %s: %w", r.ID, err)
	}
	e := &entry{record: r, config: c.Config, created: c.Created.Time}
	for _, d := range c.RootFS.DiffIDs {
		e.diffIDs = append(e.diffIDs, d.String())
	}
	return e, nil
}

// settleTags gives a tag that two records claim, after a crash between the writing of both, to the later claim.
func (s *Store) settleTags() {
	type claim struct {
		id string
		at int64
	}
	latest := map[string]claim{}
	for id, e := range s.images {
		for _, n := range e.record.Names {
			tag := n.Repository + ":" + n.Tag
			if n.Tag != "" && n.At >= latest[tag].at {
				latest[tag] = claim{id, n.At}
			}
		}
	}
	for id, e := range s.images {
		e.record = withNames(e.record, slices.DeleteFunc(slices.Clone(e.record.Names), func(n store.Name) bool {
			return n.Tag != "" && latest[n.Repository+":"+n.Tag].id != id
		}))
	}
}

func withNames(r *store.Record, names []store.Name) *store.Record {
	c := *r
	c.Names = names
	return &c
}

// sweep takes what no record names out of the way at once and deletes it in the background.
func (s *Store) sweep() error {
	doomed, err := s.disk.Leftovers()
	if err != nil {
		return err
	}
	if !s.disk.Broken() {
		keys, err := s.disk.Layers()
		if err != nil {
			return err
		}
		for _, k := range keys {
			if s.layers[k] != nil {
				continue
			}
			away, err := s.disk.TakeLayer(k)
			if err != nil {
				return err
			}
			doomed = append(doomed, away)
		}
		if err := s.sweepBlobs(); err != nil {
			return err
		}
	}
	s.background.Go(func() {
		defer close(s.swept)
		for _, d := range doomed {
			if s.life.Err() != nil {
				return // the next Open goes on
			}
			_ = s.disk.Discard(d) // what cannot be deleted now is met again by the next Open
		}
	})
	return nil
}

func (s *Store) sweepBlobs() error {
	wanted := map[string]bool{}
	for _, e := range s.images {
		for _, d := range blobsOf(e.record) {
			wanted[d] = true
		}
	}
	digests, err := s.disk.Blobs()
	if err != nil {
		return err
	}
	for _, d := range digests {
		if !wanted[d] {
			if err := s.disk.DeleteBlob(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// blobsOf lists what a record keeps as blobs.
func blobsOf(r *store.Record) []string {
	return append([]string{r.ID, r.Manifest}, r.Blobs...)
}

// Root returns the store's directory.
func (s *Store) Root() string { return s.disk.Dir() }

// Usage returns what the store takes on disk: every layer once, manifests and configs. It reads memory only.
func (s *Store) Usage() (bytes, inodes uint64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.layers {
		bytes += l.bytes
		inodes += l.inodes
	}
	for _, e := range s.images {
		bytes += e.record.MetadataBytes
		inodes += 3
	}
	return bytes + 5*4096, inodes + 5, nil // the store's own directories: an empty store is on a disk, too
}
