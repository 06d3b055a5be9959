// Package image is what the rest of fermata knows of images: pull one, find it, stack its layers, remove it.
//
// A [Store] keeps, below <root>/images, every layer unpacked once (by diffID), the manifests and configs as blobs, and one readable JSON record
// an image. Compressed layers are not kept. An image shows up by one rename, after everything it needs has reached the disk; half a pull never shows.
//
// Parts: reference (names), registry (the wire), layers (unpacking), store (what is on disk). Mounting the layers belongs to package engine, and
// who uses which image to package pod, which tells it by [Store.Hold].
package image

import (
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Options says where a store lives and how it pulls. Zero values are the defaults.
type Options struct {
	// Root is fermata's root directory; the store is <Root>/images, made with mode 0700.
	Root string
	// RegistriesDir holds <host>/hosts.toml in containerd's certs.d format, read anew at every pull. "" means none.
	RegistriesDir string
	// StallTimeout ends a pull that received no byte for so long; 0 means 5 minutes.
	StallTimeout time.Duration
	// Architecture and Variant choose from a manifest list; "" means this machine's.
	Architecture, Variant string
	// UserAgent is sent to registries; "" means "fermata".
	UserAgent string
}

// Credentials are what a registry is shown, as CRI's AuthConfig has them. They are never logged, and have no String form.
type Credentials struct {
	Username, Password string
	// Auth is base64 of "username:password", used when Username and IdentityToken are empty.
	Auth string
	// ServerAddress limits the credentials to one registry host (with or without scheme and path); "" means whichever is asked.
	ServerAddress string
	// IdentityToken is an OAuth refresh token; RegistryToken a bearer token used as it is.
	IdentityToken, RegistryToken string
}

// Pull is a request to have an image.
type Pull struct {
	// Ref is any name a person may write: "busybox", "registry.k8s.io/pause:3.10", "name@sha256:…" (a digest wins over a tag).
	Ref string
	// Credentials may be nil.
	Credentials *Credentials
	// Progress, if set, is told how far the pull is, from one goroutine at a time, a few times a second at most. It must not block.
	Progress func(Progress)
}

// Progress is how far a pull is.
type Progress struct {
	// Bytes are those received of all compressed layers, Total what the missing layers sum up to.
	Bytes, Total int64
	// Layers are those unpacked, of LayersTotal.
	Layers, LayersTotal int
}

// Image is one image as it stands on disk. It is a copy: changing it changes nothing.
type Image struct {
	// ID is "sha256:" and the digest of the config.
	ID string
	// RepoTags ("docker.io/library/busybox:latest") and RepoDigests ("docker.io/library/busybox@sha256:…", of the manifest list where there was one) are sorted.
	RepoTags, RepoDigests []string
	// Size is bytes on disk of unpacked layers, manifest and config; Inodes what the layers hold.
	Size, Inodes uint64
	// Pinned images cannot be removed.
	Pinned bool
	// Config is what a container takes from the image.
	Config v1.Config
	// Created is what the config says, zero if nothing.
	Created time.Time
	// ChainID names the whole stack of layers, "sha256:…"; "" for an image without layers.
	ChainID string
	// LayerIDs are the diffIDs, base first.
	LayerIDs []string
	// ManifestDigest is the digest of this platform's manifest.
	ManifestDigest string
	// Annotations are the manifest's.
	Annotations map[string]string

	lowers []string // directories, topmost first
}

// LoadOptions says how an archive is taken in.
type LoadOptions struct {
	// Name is given to an image that the archive itself does not name; "" leaves it without one.
	Name string
}
