package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"fermata/internal/image/layers"
	"fermata/internal/image/store"
	"fermata/internal/linux"
	"fermata/internal/undo"
)

// counting adds what is read to a pull's progress.
type counting struct {
	io.ReadCloser
	f *flight
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.f.bytes.Add(int64(n))
	return n, err
}

func (b *bringing) source(i int) layers.Source {
	d := b.m.manifest.Layers[i]
	return layers.Source{Digest: d.Digest.String(), Size: d.Size, DiffID: b.m.file.RootFS.DiffIDs[i].String()}
}

// unpackAlone makes the i-th layer while it is read.
func (b *bringing) unpackAlone(ctx context.Context, i int) error {
	return b.s.makeLayer(b.m.layerKey(i), func(making *store.Making) (store.Layer, error) {
		body, err := b.open(ctx, i)
		if err != nil {
			return store.Layer{}, err
		}
		defer body.Close()
		r, err := layers.Stream(ctx, making.Root, counting{body, b.f}, b.source(i), layers.Limits{})
		if err != nil {
			return store.Layer{}, err
		}
		return store.Layer{Bytes: r.Bytes, Inodes: r.Inodes, Implied: r.Implied, Hiding: r.Hiding}, nil
	})
}

// makeLayer makes a layer, or leaves nothing.
func (s *Store) makeLayer(key string, do func(*store.Making) (store.Layer, error)) error {
	making, err := s.disk.MakeLayer()
	if err != nil {
		return err
	}
	var l store.Layer
	err = undo.Step("pull/unpack", func() (err error) { l, err = do(making); return err })
	if err == nil {
		err = undo.Step("pull/commit", func() error { return making.Commit(key, l) })
	}
	if err != nil {
		return errors.Join(err, making.Discard())
	}
	return nil
}

// stack decides which directories make up the image, base first: layers alone where that gives the same, layers on their base where it does not, and a fix-up
// layer where implied directories need it.
func (b *bringing) stack(ctx context.Context) (refs []store.LayerRef, err error) {
	var e layers.Examiner
	var open []*linux.FD
	defer func() { err = errors.Join(err, linux.CloseAll(open...)) }()
	for i := range b.m.manifest.Layers {
		ref := store.LayerRef{Key: b.m.layerKey(i), DiffID: b.m.file.RootFS.DiffIDs[i].String()}
		var u layers.Unpacked
		needs := b.alone[i] != nil
		if !needs {
			if u, err = b.s.unpacked(ref.Key); err != nil {
				return nil, err
			}
			open = append(open, u.Dir)
			if needs, err = e.NeedsBase(u); err != nil {
				return nil, err
			}
		}
		if needs {
			ref.Key = "chain-" + store.Hex(b.m.chainID(i))
			below := slices.Clone(refs)
			if err := b.want(ctx, ref.Key, func(ctx context.Context) error { return b.unpackOnto(ctx, i, below, &e) }); err != nil {
				return nil, err
			}
			if u, err = b.s.unpacked(ref.Key); err != nil {
				return nil, err
			}
			open = append(open, u.Dir)
		}
		if err := e.Add(u); err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	looks, err := e.Fixup()
	if err != nil || len(looks) == 0 {
		return refs, err
	}
	key := "fix-" + store.Hex(b.m.chainID(len(refs)-1))
	err = b.want(ctx, key, func(context.Context) error {
		return b.s.makeLayer(key, func(making *store.Making) (store.Layer, error) {
			return store.Layer{Bytes: uint64(len(looks)+1) * 4096, Inodes: uint64(len(looks) + 1)}, layers.WriteFixup(making.Root, looks)
		})
	})
	return append(refs, store.LayerRef{Key: key}), err
}

// unpacked opens a layer that is there.
func (s *Store) unpacked(key string) (layers.Unpacked, error) {
	d, err := s.disk.Layer(key)
	if err != nil {
		return layers.Unpacked{}, err
	}
	dir, err := linux.OpenDir(s.disk.LayerDir(key))
	return layers.Unpacked{Dir: dir, Implied: d.Implied, Hiding: d.Hiding}, err
}

// unpackOnto makes the i-th layer on top of those below: from a file, because it is read twice.
func (b *bringing) unpackOnto(ctx context.Context, i int, below []store.LayerRef, e *layers.Examiner) error {
	spool, err := b.s.disk.TempFile()
	if err != nil {
		return err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	if err := b.spool(ctx, spool, i); err != nil {
		return err
	}
	again := func() (io.ReadCloser, error) {
		_, err := spool.Seek(0, io.SeekStart)
		return io.NopCloser(spool), err
	}
	key := "chain-" + store.Hex(b.m.chainID(i))
	return b.s.makeLayer(key, func(making *store.Making) (l store.Layer, err error) {
		root := making.Root
		if len(below) > 0 {
			done, mounted, err := b.s.merge(making, below, e)
			if err != nil {
				return l, err
			}
			root = mounted
			defer done()
		}
		if _, err := layers.UnpackOnto(ctx, root, again, layers.Limits{}); err != nil {
			return l, err
		}
		l.Bytes, l.Inodes, err = layers.Measure(ctx, making.Root)
		return l, err
	})
}

func (b *bringing) spool(ctx context.Context, spool *os.File, i int) error {
	body, err := b.open(ctx, i)
	if err != nil {
		return err
	}
	defer body.Close()
	return layers.Verify(spool, body, b.source(i), layers.Limits{})
}

// merge mounts the layers below with the new layer as the upper directory: detached, seen by nobody. What is below looks as it will, fixed up.
func (s *Store) merge(making *store.Making, below []store.LayerRef, e *layers.Examiner) (done func(), root *linux.FD, err error) {
	looks, err := e.Fixup()
	if err != nil {
		return nil, nil, err
	}
	var dirs []string // topmost first
	done = func() {}
	if len(looks) > 0 {
		fixup, err := s.disk.MakeLayer()
		if err != nil {
			return nil, nil, err
		}
		done = func() { _ = fixup.Discard() } // else swept by the next Open
		if err := layers.WriteFixup(fixup.Root, looks); err != nil {
			done()
			return nil, nil, err
		}
		dirs = append(dirs, fixup.Dir())
	}
	for _, ref := range slices.Backward(below) {
		if dir := s.disk.LayerDir(ref.Key); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	mounted, err := mountMerged(making, dirs)
	if err != nil {
		done()
		return nil, nil, err
	}
	unfix := done
	return func() { mounted.Close(); unfix() }, mounted, nil
}

func mountMerged(making *store.Making, dirs []string) (*linux.FD, error) {
	work, err := making.Work()
	if err != nil {
		return nil, err
	}
	// The merged root looks as the upper directory does, so that one first takes the look it has below.
	if err := layers.CopyLook(making.Root, dirs[0]); err != nil {
		return nil, err
	}
	var lowers []*linux.FD
	defer func() { _ = linux.CloseAll(lowers...) }()
	for _, d := range dirs {
		fd, err := linux.OpenDir(d)
		if err != nil {
			return nil, err
		}
		lowers = append(lowers, fd)
	}
	rest := []linux.Option{{Key: "upperdir", Value: making.Dir()}, {Key: "workdir", Value: work}, {Key: "index", Value: "off"},
		{Key: "metacopy", Value: "off"}, {Key: "volatile"}}
	mounted, err := overlayOver(lowers, rest, true)
	if err != nil {
		older, err2 := overlayOver(lowers, rest, false)
		if err2 != nil {
			return nil, fmt.Errorf("merge %d layers: %w", len(dirs), err)
		}
		return older, nil
	}
	return mounted, nil
}

// overlayOver mounts overlayfs on directories, topmost first. Not oneByOne is for kernels before 6.7, which have no lowerdir+: all in one value, of which
// fsconfig(2) takes 255 bytes; enough for about 14, because they are named by descriptor.
func overlayOver(lowers []*linux.FD, rest []linux.Option, oneByOne bool) (*linux.FD, error) {
	var each []linux.Option
	var paths []string
	for _, fd := range lowers {
		each = append(each, linux.Option{Key: "lowerdir+", Value: fd.Path()})
		paths = append(paths, fd.Path())
	}
	if !oneByOne {
		each = []linux.Option{{Key: "lowerdir", Value: strings.Join(paths, ":")}}
	}
	return linux.NewMount("overlay", 0, append(each, rest...)...)
}

// appear makes an image, whose layers are there and pinned, visible under its name.
func (s *Store) appear(ctx context.Context, m *incoming, refs []store.LayerRef) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.name.At = time.Now().UnixNano()
	r := &store.Record{ID: m.id(), Manifest: m.digest, Layers: refs, Pinned: m.pinned, Annotations: m.manifest.Annotations}
	if len(m.file.RootFS.DiffIDs) > 0 {
		r.ChainID = m.chainID(len(m.file.RootFS.DiffIDs) - 1)
	}
	blobs := map[string][]byte{m.id(): m.config}
	if store.Hex(r.Manifest) == "" { // named by sha512
		r.Manifest = digestOf(m.raw)
	}
	blobs[r.Manifest] = m.raw
	for d, b := range m.blobs {
		blobs[d] = b
		r.Blobs = append(r.Blobs, d)
	}
	slices.Sort(r.Blobs)
	for d, b := range blobs {
		r.MetadataBytes += uint64(len(b))
		if err := s.disk.PutBlob(d, b); err != nil {
			return err
		}
	}
	return s.enroll(r, m)
}

// enroll writes the record of an image, keeping the names it had, and takes its tag from whichever image had it; commit is held.
func (s *Store) enroll(r *store.Record, m *incoming) error {
	s.mu.RLock()
	old := s.images[r.ID]
	sync := old == nil
	for _, ref := range r.Layers {
		sync = sync || !s.layers[ref.Key].synced
	}
	var losers []*entry
	for _, e := range s.images {
		if e != old && m.name.Tag != "" && slices.ContainsFunc(e.record.Names, m.sameTag) {
			losers = append(losers, e)
		}
	}
	s.mu.RUnlock()
	if old != nil && !old.record.Removed {
		r.Names = m.untag(old.record.Names)
		r.Pinned = r.Pinned || old.record.Pinned
	}
	if m.name.Repository != "" {
		r.Names = append(r.Names, m.name)
	}
	e, err := newEntry(r, m.config)
	if err != nil {
		return err
	}
	if err := s.disk.PutRecord(r, sync); err != nil {
		return err
	}
	s.replace(old, e)
	if err := s.disk.Mend(r.ID); err != nil {
		return err
	}
	if old != nil && old.record.Manifest != r.Manifest {
		if err := s.disk.DeleteBlob(old.record.Manifest); err != nil {
			return err
		}
	}
	for _, l := range losers {
		if err := s.rename(l, m.untag(l.record.Names)); err != nil {
			return err
		}
	}
	return nil
}

// replace takes a record just written into memory in place of the image's former one, nil if there was none; commit is held.
func (s *Store) replace(old, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old != nil {
		s.countImages(old.record.Layers, -1)
	}
	s.countImages(e.record.Layers, +1)
	for _, ref := range e.record.Layers {
		s.layers[ref.Key].synced = true
	}
	s.images[e.record.ID] = e
}

// rename changes an image's names; commit is held.
func (s *Store) rename(e *entry, names []store.Name) error {
	r := withNames(e.record, names)
	if err := s.disk.PutRecord(r, false); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.record = r
	return nil
}

func (m *incoming) sameTag(n store.Name) bool {
	return n.Repository == m.name.Repository && n.Tag == m.name.Tag && n.Tag != ""
}

// untag returns an image's former names without the incoming tag; the digest that went with it stays.
func (m *incoming) untag(names []store.Name) []store.Name {
	var kept []store.Name
	for _, n := range names {
		if m.sameTag(n) {
			n.Tag = ""
		}
		same := func(k store.Name) bool {
			return k.Repository == n.Repository && k.Tag == n.Tag && k.Digest == n.Digest
		}
		again := n.Tag == "" && (n.Digest == "" || n.Repository == m.name.Repository && n.Digest == m.name.Digest)
		if !again && !slices.ContainsFunc(kept, same) {
			kept = append(kept, n)
		}
	}
	return kept
}
