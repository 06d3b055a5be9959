package layers

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"fermata/internal/linux"
)

// ErrNeedsBase says that a layer cannot be unpacked alone: it links to a file, or writes through a link, that it does not bring itself.
var ErrNeedsBase = errors.New("the layer makes sense only on top of the layers below it")

// What names in an archive mean to take away, by the image specification's form of AUFS.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh." // AUFS's own housekeeping, of no meaning here
)

const xattrOpaque = "trusted.overlay.opaque"

// Result is what unpacking a layer made.
type Result struct {
	// Bytes and Inodes are what it takes on disk.
	Bytes, Inodes uint64
	// Implied are the directories made because something lies in them and not because they are listed, sorted; "" is the root.
	Implied []string
	// Hiding are the directories with whiteouts in them, sorted.
	Hiding []string
}

// directory is one that a layer brings.
type directory struct {
	listed bool
	anew   bool // whited out by this layer, so it does not look as below
	opaque bool
	hides  []string // names whited out in it
	// at and acl are set last, because what comes into a directory changes the one and inherits the other.
	at   time.Time
	acl  string
	subs []string // paths of directories made in it, so that forgetting a tree costs no more than the tree
}

// unpacker is the state of one [Unpack] or [UnpackOnto].
type unpacker struct {
	ctx    context.Context
	root   *linux.FD
	limits Limits
	onto   bool // UnpackOnto
	buf    []byte

	entries int
	bytes   int64 // apparent, of all files
	holes   int64
	result  Result

	dirs map[string]*directory // by clean path; only those that this layer brings

	parent      *linux.FD // the directory last used, nil if it was the root
	parentPath  string
	parentStale bool
}

// Unpack unpacks an uncompressed archive alone into the empty directory root, as an overlayfs layer. It reads r to the archive's end, not to r's end.
func Unpack(ctx context.Context, root *linux.FD, r io.Reader, limits Limits) (*Result, error) {
	u := newUnpacker(ctx, root, limits)
	defer u.close()
	u.dirs[""] = &directory{}
	u.count(4096)
	if err := u.all(r, u.place); err != nil {
		return nil, err
	}
	if err := u.finishDirs(); err != nil {
		return nil, err
	}
	for p, d := range u.dirs {
		if !d.listed && !d.anew {
			u.result.Implied = append(u.result.Implied, p)
		}
		hides, err := u.finishHiding(p, d)
		if err != nil {
			return nil, err
		}
		if hides {
			u.result.Hiding = append(u.result.Hiding, p)
		}
	}
	slices.Sort(u.result.Implied)
	slices.Sort(u.result.Hiding)
	return &u.result, nil
}

func newUnpacker(ctx context.Context, root *linux.FD, limits Limits) *unpacker {
	return &unpacker{ctx: ctx, root: root, limits: limits.withDefaults(), buf: make([]byte, 256<<10), dirs: map[string]*directory{}}
}

func (u *unpacker) close() { u.parent.Close() }

// all gives every entry of an archive to do, bounded.
func (u *unpacker) all(r io.Reader, do func(*tar.Header, string, *tar.Reader) error) error {
	t := tar.NewReader(r)
	for {
		if err := u.ctx.Err(); err != nil {
			return fmt.Errorf("unpack layer: %w", context.Cause(u.ctx))
		}
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return readError(err)
		}
		if u.entries++; u.entries > u.limits.Entries {
			return refuse("over %d entries", u.limits.Entries)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := u.limits.clean(h.Name)
		if err != nil {
			return err
		}
		if strings.HasPrefix(name, aufsPrefix) && name != opaqueMarker {
			continue
		}
		if err := do(h, name, t); err != nil {
			return err
		}
	}
}

// readError tells an archive that is malformed from a source that failed.
func readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, tar.ErrInsecurePath) {
		return refuse("%w", err)
	}
	return fmt.Errorf("unpack layer: %w", err)
}

// place puts one entry where it belongs.
func (u *unpacker) place(h *tar.Header, name string, t *tar.Reader) error {
	if name == "" {
		return u.placeRoot(h)
	}
	dir, base := split(name)
	if strings.HasPrefix(base, whiteoutPrefix) {
		if u.onto { // the first pass did it; its directory is there afterwards, as elsewhere
			_, err := u.openDir(dir, true)
			return err
		}
		return u.whiteout(dir, base)
	}
	parent, err := u.openDir(dir, true)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.placeDir(parent, name, h)
	}
	if err := u.placeNew(parent, base, h, t); !errors.Is(err, syscall.EEXIST) {
		return err
	}
	if err := u.makeRoom(parent, name, h); err != nil {
		return err
	}
	return u.placeNew(parent, base, h, t)
}

// makeRoom removes what an entry that is no directory replaces. A hard link to itself is refused, as it would remove its target.
func (u *unpacker) makeRoom(parent *linux.FD, name string, h *tar.Header) error {
	if h.Typeflag == tar.TypeLink {
		if target, err := u.limits.clean(h.Linkname); err != nil || target == name {
			return refuse("hard link %q to itself", clip(name))
		}
	}
	u.forget(name)
	_, base := split(name)
	return parent.RemoveTreeEntry(base)
}

// forget drops what is known of the directories at and below a path that is about to be removed.
func (u *unpacker) forget(name string) {
	if u.onto || u.parentPath == name || strings.HasPrefix(u.parentPath, name+"/") {
		u.parentStale = true // may be the one in use just now, so it is closed by the next openDir
	}
	d := u.dirs[name]
	if d == nil {
		return
	}
	delete(u.dirs, name)
	for _, sub := range d.subs {
		u.forget(sub)
	}
}

// know notes a directory just made.
func (u *unpacker) know(name string) {
	dir, _ := split(name)
	if parent := u.dirs[dir]; parent != nil {
		parent.subs = append(parent.subs, name)
	}
	u.dirs[name] = &directory{}
	u.count(4096)
}

// placeNew makes an entry that is no directory; EEXIST if something is there.
func (u *unpacker) placeNew(parent *linux.FD, base string, h *tar.Header, t *tar.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return u.placeFile(parent, base, h, t)
	case tar.TypeLink:
		return u.placeLink(parent, base, h)
	case tar.TypeSymlink:
		if err := parent.SymlinkEntry(h.Linkname, base); err != nil {
			return symlinkError(err, h)
		}
		u.count(symlinkBlocks(h.Linkname))
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if err := u.placeNode(parent, base, h); err != nil {
			return err
		}
		u.count(0)
	default:
		return refuse("entry %q is of unknown type %q", clip(h.Name), h.Typeflag)
	}
	return u.describe(parent, base, h)
}

func symlinkError(err error, h *tar.Header) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENAMETOOLONG) { // an empty target, or one over 4095 bytes
		return refuse("symbolic link %q has no usable target", clip(h.Name))
	}
	return err
}

// symlinkBlocks is what a symbolic link's target takes: nothing up to 59 bytes on ext4, which keeps it in the inode.
func symlinkBlocks(target string) int64 {
	if len(target) < 60 {
		return 0
	}
	return 4096
}

func (u *unpacker) placeNode(parent *linux.FD, base string, h *tar.Header) error {
	mode := uint32(h.Mode) & 0o7777
	if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff { // what the kernel's dev_t holds
		return refuse("device %q has number %d:%d", clip(h.Name), h.Devmajor, h.Devminor)
	}
	switch h.Typeflag {
	case tar.TypeChar:
		return parent.MakeNodeEntry(base, linux.TypeCharacter|mode, uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeBlock:
		return parent.MakeNodeEntry(base, linux.TypeBlock|mode, uint32(h.Devmajor), uint32(h.Devminor))
	}
	return parent.MakeNodeEntry(base, linux.TypeFIFO|mode, 0, 0)
}

// count adds what an inode takes on disk, in whole 4 KiB blocks.
func (u *unpacker) count(bytes int64) {
	u.result.Inodes++
	u.result.Bytes += uint64((bytes + 4095) &^ 4095)
}
