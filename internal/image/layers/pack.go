package layers

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"

	"fermata/internal/linux"
)

// Digester counts and digests what is written through it.
type Digester struct {
	w    io.Writer
	h    hash.Hash
	size int64
}

// NewDigester returns a Digester over w.
func NewDigester(w io.Writer) *Digester { return &Digester{w: w, h: sha256.New()} }

// Write implements io.Writer.
func (d *Digester) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.size += int64(n)
	d.h.Write(p[:n])
	return n, err
}

// Digest is "sha256:…" of what was written so far.
func (d *Digester) Digest() string { return "sha256:" + hex.EncodeToString(d.h.Sum(nil)) }

// Size is how many bytes were written so far.
func (d *Digester) Size() int64 { return d.size }

// Pack makes an archive of an unpacked layer: what [Unpack] undoes. Directories that the layer only implied are not listed; overlayfs's whiteouts become those of
// archives. The same layer gives the same bytes.
func Pack(ctx context.Context, l Unpacked, w io.Writer) error {
	p := &packer{ctx: ctx, w: tar.NewWriter(w), implied: map[string]bool{}, names: map[uint64]string{}}
	for _, i := range l.Implied {
		p.implied[i] = true
	}
	dir, err := l.Dir.OpenBeneath(".", readDir, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := p.directory(dir, ""); err != nil {
		return fmt.Errorf("pack layer: %w", err)
	}
	return p.w.Close()
}

type packer struct {
	ctx     context.Context
	w       *tar.Writer
	implied map[string]bool
	names   map[uint64]string // first name of inodes with several
}

func (p *packer) directory(dir *linux.FD, at string) error {
	if !p.implied[at] {
		st, err := dir.Stat()
		if err != nil {
			return err
		}
		h, err := headerOf(dir, st, at+"/")
		if err != nil {
			return err
		}
		if at == "" {
			h.Name = "./"
		}
		h.Typeflag = tar.TypeDir
		if err := p.w.WriteHeader(h); err != nil {
			return err
		}
	}
	opaque, err := dir.Xattr(xattrOpaque)
	if err != nil {
		return err
	}
	if opaque == "y" {
		if err := p.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(at, opaqueMarker), Mode: 0o600}); err != nil {
			return err
		}
	}
	names, err := dir.EntryNames()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if err := p.entry(dir, n, path.Join(at, n)); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) entry(parent *linux.FD, base, at string) error {
	st, err := parent.StatEntry(base)
	if err != nil {
		return err
	}
	switch {
	case st.IsDir():
		dir, err := parent.OpenEntry(base, readDir)
		if err != nil {
			return err
		}
		return errors.Join(p.directory(dir, at), dir.Close())
	case st.IsWhiteout():
		dir, name := split(at)
		return p.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(dir, whiteoutPrefix+name), Mode: 0o600})
	}
	e, err := parent.OpenEntry(base, oPath)
	if err != nil {
		return err
	}
	defer e.Close()
	h, err := headerOf(e, st, at)
	if err != nil {
		return err
	}
	if st.Links > 1 {
		if first, ok := p.names[st.Inode]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			h.PAXRecords = nil
			return p.w.WriteHeader(h)
		}
		p.names[st.Inode] = at
	}
	return p.contents(parent, base, st, h)
}

// contents writes what an entry that is no directory holds.
func (p *packer) contents(parent *linux.FD, base string, st linux.EntryStat, h *tar.Header) (err error) {
	switch st.Mode & linux.TypeMask {
	case linux.TypeRegular:
		f, err := parent.OpenEntry(base, syscall.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		if err := p.w.WriteHeader(h); err != nil {
			return err
		}
		_, err = io.Copy(p.w, f)
		return err
	case linux.TypeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = parent.ReadLinkEntry(base); err != nil {
			return err
		}
	case linux.TypeCharacter:
		h.Typeflag = tar.TypeChar
	case linux.TypeBlock:
		h.Typeflag = tar.TypeBlock
	case linux.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil // a socket, which archives have no form for
	}
	return p.w.WriteHeader(h)
}

func headerOf(e *linux.FD, st linux.EntryStat, at string) (*tar.Header, error) {
	h := &tar.Header{Name: at, Mode: int64(st.Mode & 0o7777), Uid: int(st.UID), Gid: int(st.GID), ModTime: st.ModTime, Format: tar.FormatPAX}
	if major, minor := linux.DeviceNumbers(st.Special); major|minor != 0 {
		h.Devmajor, h.Devminor = int64(major), int64(minor)
	}
	look, err := lookOf(e)
	if err != nil || len(look.Xattrs) == 0 {
		return h, err
	}
	h.PAXRecords = map[string]string{}
	for name, value := range look.Xattrs {
		if !strings.ContainsAny(name, "=\x00") {
			h.PAXRecords[paxXattr+name] = value
		}
	}
	return h, nil
}
