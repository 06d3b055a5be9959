package layers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Source is one layer as it is served.
type Source struct {
	// Digest ("sha256:…") and Size are of the served bytes; Size -1 means unknown.
	Digest string
	Size   int64
	// DiffID is the digest of the uncompressed archive.
	DiffID string
}

// maxWindow bounds what a zstd frame may ask for: what `zstd --long` makes.
const maxWindow = 128 << 20

// Stream unpacks a layer into the empty directory root while it is being read from body: both digests are checked at the end, and the error then means that what
// is in root must go. Gzip, zstd and plain archives are told apart by their first bytes.
func Stream(ctx context.Context, root *linux.FD, body io.Reader, s Source, limits Limits) (*Result, error) {
	var result *Result
	err := check(body, s, limits, func(archive io.Reader) (err error) {
		result, err = Unpack(ctx, root, archive, limits)
		return err
	})
	return result, err
}

// Verify copies a layer, uncompressed, to w, and checks both digests.
func Verify(w io.Writer, body io.Reader, s Source, limits Limits) error {
	return check(body, s, limits, func(archive io.Reader) error {
		_, err := io.Copy(w, archive)
		return err
	})
}

// check gives the uncompressed archive to use, and compares size and digests once that is done.
func check(body io.Reader, s Source, limits Limits, use func(io.Reader) error) error {
	limits = limits.withDefaults()
	served := &hasher{r: body, h: sha256.New(), left: s.Size, object: "layer " + s.Digest}
	if s.Size < 0 {
		served.left = limits.Bytes
	}
	plain, err := Decompress(served)
	if err != nil {
		return served.blame(err)
	}
	defer plain.Close()
	archive := &hasher{r: plain, h: sha256.New(), left: limits.Bytes, object: "uncompressed layer " + s.DiffID}
	if err := use(archive); err != nil {
		return served.blame(err)
	}
	// What follows the archive's end counts in the digests.
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return served.blame(readError(err))
	}
	if _, err := io.Copy(io.Discard, served); err != nil {
		return fmt.Errorf("read layer %s: %w", s.Digest, err)
	}
	if s.Size >= 0 && served.left != 0 {
		return errs.New(errs.Unavailable, "read layer %s: %d bytes short: %w", s.Digest, served.left, io.ErrUnexpectedEOF)
	}
	if err := served.compare(s.Digest); err != nil {
		return err
	}
	return archive.compare(s.DiffID)
}

// Decompress returns the uncompressed form of what r gives.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, refuse("%w", err)
		}
		return z, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, refuse("%w", err)
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("BZh")), bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, errs.New(errs.Unimplemented, "unpack layer: compressed by bzip2 or xz, which images do not use")
	}
	return io.NopCloser(br), nil
}

// hasher counts and digests what is read through it, and ends in an error at more than allowed.
type hasher struct {
	r      io.Reader
	h      hash.Hash
	left   int64
	object string
	err    error // of r, other than its end
}

func (h *hasher) Read(p []byte) (int, error) {
	if int64(len(p)) > h.left+1 {
		p = p[:h.left+1]
	}
	n, err := h.r.Read(p)
	if int64(n) > h.left {
		h.err = errs.New(errs.InvalidArgument, "read %s: longer than it may be", h.object)
		return 0, h.err
	}
	h.left -= int64(n)
	h.h.Write(p[:n])
	if err != nil && err != io.EOF {
		h.err = err
	}
	return n, err
}

// blame returns the source's own error rather than what a decompressor or an archive reader made of it.
func (h *hasher) blame(err error) error {
	if h.err != nil {
		return fmt.Errorf("read %s: %w", h.object, h.err)
	}
	return err
}

func (h *hasher) compare(want string) error {
	if got := "sha256:" + hex.EncodeToString(h.h.Sum(nil)); got != want {
		return errs.New(errs.InvalidArgument, "read %s: its digest is %s", h.object, got)
	}
	return nil
}
