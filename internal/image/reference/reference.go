// Package reference reads the names of images as people write them and gives them their full form: "busybox" is
// "docker.io/library/busybox:latest". The grammar is the one of distribution/reference.
//
// It knows names, not images: whether something of that name exists is package image's business.
package reference

import (
	"strings"

	"fermata/internal/errs"
)

const (
	// DefaultDomain is the registry of a name without one, and officialPath the folder of its names without a folder.
	DefaultDomain = "docker.io"
	officialPath  = "library/"
	// DefaultTag is the tag of a name without tag and digest.
	DefaultTag = "latest"

	maxName = 255 // of domain and path together, by the distribution specification
	maxTag  = 128
)

// Reference is a full name. At least one of Tag and Digest is set by [Parse].
type Reference struct {
	// Domain is the registry's host as in the name ("docker.io", "localhost:5000"), never empty.
	Domain string
	// Path is the repository within the registry ("library/busybox").
	Path string
	// Tag is "" for a name with only a digest.
	Tag string
	// Digest is "sha256:…" or "sha512:…", "" if not given. It wins over the tag.
	Digest string
}

// Parse reads a name. A name without tag and digest gets [DefaultTag].
func Parse(s string) (Reference, error) {
	refuse := func(why string) (Reference, error) {
		return Reference{}, errs.New(errs.InvalidArgument, "image name %q: %s", clip(s), why)
	}
	var r Reference
	rest := s
	if name, digest, ok := strings.Cut(rest, "@"); ok {
		if !ValidDigest(digest) {
			return refuse("the digest after @ is not sha256: or sha512: and as many hexadecimal digits as it takes")
		}
		rest, r.Digest = name, digest
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !validTag(r.Tag) {
			return refuse("the tag may have letters, digits, and, not first, . and -; 128 at most")
		}
	}
	if isHex64(rest) || rest == "sha256" && isHex64(r.Tag) {
		return refuse("64 hexadecimal digits are an id, not a name")
	}
	r.Domain, r.Path = split(rest)
	switch {
	case rest == "":
		return refuse("it is empty")
	case !validDomain(r.Domain):
		return refuse("the registry's host is not valid")
	case !validPath(r.Path):
		return refuse("a repository has lower-case letters, digits, and between them . _ __ - and /")
	case len(r.Domain)+1+len(r.Path) > maxName:
		return refuse("it is over 255 bytes")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = DefaultTag
	}
	return r, nil
}

// Repository is domain and path: "docker.io/library/busybox".
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// Tagged is the full name by tag, "" without one.
func (r Reference) Tagged() string {
	if r.Tag == "" {
		return ""
	}
	return r.Repository() + ":" + r.Tag
}

// String is the full name with whatever it has; [Parse] reads it back to the same.
func (r Reference) String() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// split parts a name into domain and path. The first component is a domain if it could not be part of a path: it has a dot, a colon or an upper-case
// letter, or is "localhost".
func split(name string) (domain, path string) {
	first, rest, ok := strings.Cut(name, "/")
	if !ok || !strings.ContainsAny(first, ".:[") && first != "localhost" && strings.ToLower(first) == first {
		domain, path = DefaultDomain, name
	} else {
		domain, path = first, rest
	}
	if domain == "index.docker.io" {
		domain = DefaultDomain
	}
	if domain == DefaultDomain && !strings.Contains(path, "/") && path != "" {
		path = officialPath + path
	}
	return domain, path
}

// ValidDigest says whether s is a digest fermata can check.
func ValidDigest(s string) bool {
	algorithm, hex, _ := strings.Cut(s, ":")
	switch algorithm {
	case "sha256":
		return isHex64(hex)
	case "sha512":
		return len(hex) == 128 && isHex(hex)
	}
	return false
}

func isHex64(s string) bool { return len(s) == 64 && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func alnum(c byte) bool { return lower(c) || c >= 'A' && c <= 'Z' }
func lower(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }

func validTag(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= maxTag
}

// validDomain takes host names, IPv4 and bracketed IPv6 addresses, each maybe with a port.
func validDomain(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		address := s[1:end]
		if address == "" || strings.Trim(address, "0123456789abcdefABCDEF:") != "" {
			return false
		}
		if port = s[end+1:]; port == "" {
			return true
		}
		return port[0] == ':' && validPort(port[1:])
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
		if !validPort(port) {
			return false
		}
	}
	for _, label := range strings.Split(host, ".") {
		if label == "" || !alnum(label[0]) || !alnum(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if !alnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}

func validPort(s string) bool {
	return s != "" && len(s) <= 5 && strings.Trim(s, "0123456789") == ""
}

// validPath takes components of lower-case letters and digits with single separators (".", "_", "__", or any number of "-") between them.
func validPath(s string) bool {
	for _, component := range strings.Split(s, "/") {
		for i := 0; i < len(component); {
			if lower(component[i]) {
				i++
				continue
			}
			start := i
			for i < len(component) && !lower(component[i]) {
				i++
			}
			separator := component[start:i]
			if start == 0 || i == len(component) ||
				separator != "." && separator != "_" && separator != "__" && strings.Trim(separator, "-") != "" {
				return false
			}
		}
		if component == "" {
			return false
		}
	}
	return true
}

// clip keeps a name that nobody should have written from filling a log.
func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}
