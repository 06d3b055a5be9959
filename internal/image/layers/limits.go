package layers

import (
	"path"
	"strings"

	"fermata/internal/errs"
)

// Limits bound one layer. The zero value of a field means its default.
type Limits struct {
	// Entries in the archive; default 2 million.
	Entries int
	// Bytes of the archive once decompressed, and of all files together as they appear; default 256 GiB.
	Bytes int64
	// Holes is how long sparse files may appear, together; default 64 GiB. They cost an archive nothing.
	Holes int64
	// Depth of a path; default 512.
	Depth int
}

const (
	maxPath      = 4095 // PATH_MAX without its NUL
	maxComponent = 255  // NAME_MAX
)

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = 256 << 30
	}
	if l.Holes == 0 {
		l.Holes = 64 << 30
	}
	if l.Depth == 0 {
		l.Depth = 512
	}
	return l
}

// clean turns an archive's name into a path below the root: no leading slash, no ".", no ".."; "" is the root itself. A name that leads out is refused.
func (l Limits) clean(name string) (string, error) {
	p := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case name == "":
		return "", refuse("an entry has no name")
	case strings.ContainsRune(name, 0):
		return "", refuse("name %q has a NUL", clip(name))
	case p == ".":
		return "", nil
	case p == ".." || strings.HasPrefix(p, "../"):
		return "", refuse("name %q leads out of the image", clip(name))
	case len(p) > maxPath:
		return "", refuse("name %q is over %d bytes", clip(name), maxPath)
	}
	depth := 0
	for component := range strings.SplitSeq(p, "/") {
		if depth++; depth > l.Depth {
			return "", refuse("name %q is over %d directories deep", clip(name), l.Depth)
		}
		if len(component) > maxComponent {
			return "", refuse("name %q has a component over %d bytes", clip(name), maxComponent)
		}
	}
	return p, nil
}

func refuse(format string, args ...any) error {
	return errs.New(errs.InvalidArgument, "unpack layer: "+format, args...)
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// split parts a clean path into directory and last component.
func split(p string) (dir, base string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return "", p
}
