package image

import (
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/errs"
)

// Store is the images of one node. It is safe for concurrent use.
type Store struct{ o Options }

var errSoon = errs.New(errs.Unimplemented, "image store: not written yet")

// Open opens the store below o.Root, making it if need be, and sweeps what a crash left half done.
func Open(o Options) (*Store, error) { return &Store{o}, nil }

// Close waits for what is running and gives everything back.
func (s *Store) Close() error { return nil }

// Pull fetches an image.
func (s *Store) Pull(ctx context.Context, p Pull) (id string, err error) { return "", errSoon }

// Resolve finds an image by id, short id, tag, digest, or name without tag.
func (s *Store) Resolve(ref string) (*Image, error) { return nil, errSoon }

// Lowers returns the overlay lower directories of an image, topmost first.
func (s *Store) Lowers(img *Image) []string { return img.lowers }

// Hold keeps an image's layers for a user (a container's id).
func (s *Store) Hold(imageID, user string) error { return errSoon }

// Release ends a user's hold.
func (s *Store) Release(user string) error { return errSoon }

// Collect frees what removed images left for holders that did not come back after a restart.
func (s *Store) Collect(ctx context.Context) error { return errSoon }

// List returns every image.
func (s *Store) List() []*Image { return nil }

// Remove removes an image with all its names.
func (s *Store) Remove(ctx context.Context, ref string) error { return errSoon }

// Usage returns what the store takes on disk.
func (s *Store) Usage() (bytes, inodes uint64, err error) { return 0, 0, errSoon }

// Root returns the store's directory.
func (s *Store) Root() string { return s.o.Root + "/images" }

// Load takes images in from an archive.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]string, error) {
	return nil, errSoon
}

// Export writes an image as an OCI layout.
func (s *Store) Export(ctx context.Context, ref string, w io.Writer) error { return errSoon }

// AddBuiltin makes a pinned image of a few files.
func (s *Store) AddBuiltin(ref string, files map[string][]byte, cfg v1.Config) error { return errSoon }
