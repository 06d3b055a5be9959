package image

import (
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/errs"
)

// Load takes images in from an archive.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]string, error) {
	return nil, errs.New(errs.Unimplemented, "load images")
}

// Export writes an image as an OCI layout.
func (s *Store) Export(ctx context.Context, ref string, w io.Writer) error {
	return errs.New(errs.Unimplemented, "export image")
}

// AddBuiltin makes a pinned image of a few files.
func (s *Store) AddBuiltin(ref string, files map[string][]byte, cfg v1.Config) error {
	return errs.New(errs.Unimplemented, "add built-in image")
}
