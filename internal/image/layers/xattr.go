package layers

import (
	"archive/tar"
	"strings"

	"fermata/internal/linux"
)

const (
	paxXattr   = "SCHILY.xattr."
	defaultACL = "system.posix_acl_default"
)

// wanted says whether an image may set an extended attribute. The rest is the host's business: overlayfs's attributes would let a layer reach into others,
// and security labels are given by the host.
func wanted(name string) bool {
	switch {
	case strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."):
		return true
	}
	return name == "security.capability" || name == "system.posix_acl_access" || name == defaultACL
}

func hasXattrs(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok && wanted(name) {
			return true
		}
	}
	return false
}

// setXattrs sets an entry's attributes, but returns the default ACL for later: set at once it would be inherited by what comes into the directory. A
// filesystem that has no user attributes loses them; one that cannot hold a file capability is an error, because the program would not work.
func setXattrs(f *linux.FD, h *tar.Header) (acl string, err error) {
	for k, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !wanted(name) {
			continue
		}
		if name == defaultACL {
			acl = value
			continue
		}
		if err := f.SetXattr(name, value); err != nil {
			if linux.IsUnsupported(err) && name != "security.capability" || isSymlinkUserXattr(err, name, h) {
				continue
			}
			return "", xattrError(err, name, h)
		}
	}
	return acl, nil
}
