package layers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"fermata/internal/linux"
)

// placeFile makes a regular file and fills it.
func (u *unpacker) placeFile(parent *linux.FD, base string, h *tar.Header, t *tar.Reader) error {
	sparse := isSparse(h)
	if err := u.admit(h, sparse); err != nil {
		return err
	}
	f, err := parent.CreateEntry(base, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	written, err := u.fill(f, h, t, sparse)
	if err != nil {
		return err
	}
	u.count(written)
	// The owner first: changing it clears setuid and capabilities.
	if err := f.Chown(uint32(h.Uid), uint32(h.Gid)); err != nil {
		return err
	}
	if err := f.Chmod(uint32(h.Mode) & 0o7777); err != nil {
		return err
	}
	if _, err := setXattrs(f, h); err != nil {
		return err
	}
	return f.SetTimes(h.ModTime)
}

// admit checks a file's claims before anything is written.
func (u *unpacker) admit(h *tar.Header, sparse bool) error {
	if h.Size < 0 || h.Size > u.limits.Bytes-u.bytes {
		return refuse("file %q takes the layer over %d bytes", clip(h.Name), u.limits.Bytes)
	}
	u.bytes += h.Size
	if !sparse {
		return nil
	}
	if h.Size > u.limits.Holes-u.holes {
		return refuse("sparse file %q takes the layer's sparse files over %d bytes", clip(h.Name), u.limits.Holes)
	}
	u.holes += h.Size
	return nil
}

// isSparse says whether a header is of one of GNU tar's sparse formats.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// writebackChunk is after how much of a file the kernel is asked to start writing, so that little is left when the image is synced.
const writebackChunk = 8 << 20

// fill copies an entry's contents and returns how many bytes take space. Of sparse files, blocks of zeros stay holes.
func (u *unpacker) fill(f *linux.FD, h *tar.Header, t *tar.Reader, sparse bool) (int64, error) {
	var done, data, flushed int64
	for done < h.Size {
		if err := u.ctx.Err(); err != nil {
			return 0, fmt.Errorf("unpack layer: %w", context.Cause(u.ctx))
		}
		chunk := u.buf[:min(int64(len(u.buf)), h.Size-done)]
		n, err := io.ReadFull(t, chunk)
		if err != nil {
			return 0, readError(noEOF(err))
		}
		if sparse && isZero(chunk[:n]) {
			err = f.Skip(int64(n))
		} else {
			_, err = f.Write(chunk[:n])
			data += int64(n)
		}
		if err != nil {
			return 0, err
		}
		if done += int64(n); data-flushed >= writebackChunk {
			f.StartWriteback(0, 0)
			flushed = data
		}
	}
	if sparse {
		return data, f.Truncate(h.Size)
	}
	return data, nil
}

// noEOF keeps an archive that ends too early from looking like one that ends.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

var zeros [4096]byte

func isZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

// placeLink makes a hard link to something this layer has brought (or, onto a base, to anything below).
func (u *unpacker) placeLink(parent *linux.FD, base string, h *tar.Header) error {
	target, err := u.limits.clean(h.Linkname)
	if err != nil {
		return err
	}
	if target == "" {
		return refuse("hard link %q to the root", clip(h.Name))
	}
	dir, targetBase := split(target)
	from, err := u.openTarget(dir)
	if err != nil {
		return u.missing(err, h)
	}
	defer from.Close()
	st, err := from.StatEntry(targetBase)
	switch {
	case err != nil:
		return u.missing(err, h)
	case st.IsDir():
		return refuse("hard link %q to a directory", clip(h.Name))
	case st.IsWhiteout() && !u.onto:
		return ErrNeedsBase
	}
	return parent.LinkEntry(from, targetBase, base)
}

// missing is the answer to a hard link's target that is not there.
func (u *unpacker) missing(err error, h *tar.Header) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		if !u.onto {
			return ErrNeedsBase
		}
		return refuse("hard link %q to %q, which is not there", clip(h.Name), clip(h.Linkname))
	}
	return err
}

// describe sets owner, mode, attributes and times of a new entry that is neither file nor directory. A hard link has them from its first name.
func (u *unpacker) describe(parent *linux.FD, base string, h *tar.Header) error {
	if h.Typeflag == tar.TypeLink {
		return nil
	}
	if err := parent.ChownEntry(base, uint32(h.Uid), uint32(h.Gid)); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := parent.ChmodEntry(base, uint32(h.Mode)&0o7777); err != nil {
			return err
		}
	}
	if hasXattrs(h) {
		e, err := parent.OpenEntry(base, oPath)
		if err != nil {
			return err
		}
		defer e.Close()
		if _, err := setXattrs(e, h); err != nil {
			return err
		}
	}
	return parent.SetTimesEntry(base, h.ModTime)
}
