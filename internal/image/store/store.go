// Package store is what images are on disk:
//
//	<dir>/blobs/sha256/<hex>      manifests and configs, and layers of built-in images
//	<dir>/layers/<key>/fs         one unpacked layer
//	<dir>/layers/<key>/layer.json its size, and which of its directories are only implied
//	<dir>/records/<hex>.json      one image: its names, its layers; named after the config's digest
//	<dir>/tmp                     what is being made; emptied by Open
//	<dir>/broken                  records that could not be read, set aside by Open
//
// A layer's key is the hex of its diffID, or "chain-" and the hex of its chain ID if it could only be unpacked on top of those below, or "fix-" and the
// chain ID for a fix-up layer.
//
// An image exists when its record does, and a record is written only after everything it needs is on the disk ([Store.PutRecord] syncs). So what no record
// names after a crash is half done or no longer wanted, and is swept.
//
// The package knows files, not policy: who needs which layer is decided by package image.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Version of the records' form. A record of another version is set aside.
const Version = 1

// maxRecord bounds what is read of a record or a layer's description.
const maxRecord = 64 << 20

// Name is one name of an image.
type Name struct {
	// Repository is "docker.io/library/busybox".
	Repository string `json:"repository"`
	// Tag is "" for a name by digest only.
	Tag string `json:"tag,omitempty"`
	// Digest is what the registry served under that name: a list's or a manifest's. "" for images that came from no registry.
	Digest string `json:"digest,omitempty"`
	// Manifest is this platform's manifest, by which the image can be named too.
	Manifest string `json:"manifest,omitempty"`
	// At orders claims to one tag, in nanoseconds since 1970: the latest has it.
	At int64 `json:"at"`
}

// LayerRef is one layer of an image.
type LayerRef struct {
	Key string `json:"key"`
	// DiffID is "" for a fix-up layer.
	DiffID string `json:"diffID,omitempty"`
}

// Record is one image.
type Record struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // "sha256:…" of the config
	Names   []Name `json:"names,omitempty"`
	// Manifest is the digest of the manifest kept as a blob.
	Manifest string `json:"manifest"`
	// Blobs are kept besides manifest and config: compressed layers of built-in images.
	Blobs []string `json:"blobs,omitempty"`
	// MetadataBytes is the size of all blobs.
	MetadataBytes uint64     `json:"metadataBytes"`
	Layers        []LayerRef `json:"layers"` // base first; a fix-up layer last
	ChainID       string     `json:"chainID,omitempty"`
	Pinned        bool       `json:"pinned,omitempty"`
	// Removed marks an image that is gone for everybody but the containers that still use its layers.
	Removed     bool              `json:"removed,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Layer describes an unpacked layer.
type Layer struct {
	Version int      `json:"version"`
	Bytes   uint64   `json:"bytes"`
	Inodes  uint64   `json:"inodes"`
	Implied []string `json:"implied,omitempty"`
	Hiding  []string `json:"hiding,omitempty"`
}

// Store is the directory. Its methods may be called concurrently for different objects.
type Store struct {
	dir  string
	temp atomic.Uint64
}

var (
	keyForm = regexp.MustCompile(`^(chain-|fix-)?[0-9a-f]{64}$`)
	hexForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Open makes the directories if need be, with mode 0700 whatever they had.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	for _, d := range []string{"", "blobs", "blobs/sha256", "layers", "records", "tmp", "broken"} {
		p := filepath.Join(dir, d)
		if err := os.MkdirAll(p, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chmod(p, 0o700); err != nil {
			return nil, err
		}
	}
	return s, s.spread()
}

// spread has layers unpacked apart from one another and from what was deleted. They begin in tmp.
func (s *Store) spread() error {
	d, err := linux.Open(s.path("tmp"), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.SpreadSubdirectories()
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// Hex is the hexadecimal part of a sha256 digest, "" if it is not one.
func Hex(digest string) string {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || !hexForm.MatchString(h) {
		return ""
	}
	return h
}

// Records reads every image. One that cannot be read is moved to broken/ and named in problems; the rest go on.
func (s *Store) Records() (records []*Record, problems []string, err error) {
	entries, err := os.ReadDir(s.path("records"))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		r, err := s.record(e.Name())
		if err == nil {
			records = append(records, r)
			continue
		}
		problem, err := s.setAside(e.Name(), err)
		if err != nil {
			return nil, nil, err
		}
		problems = append(problems, problem)
	}
	return records, problems, nil
}

// SetAside moves a record that turned out to be unusable to broken/, and says so in a sentence.
func (s *Store) SetAside(id string, why error) (problem string, err error) {
	return s.setAside(Hex(id)+".json", why)
}

func (s *Store) setAside(name string, why error) (problem string, err error) {
	problem = fmt.Sprintf("image record %s: %v; set aside in %s", name, why, s.path("broken"))
	return problem, os.Rename(s.path("records", name), s.path("broken", name))
}

func (s *Store) record(name string) (*Record, error) {
	var r Record
	if err := readJSON(s.path("records", name), &r); err != nil {
		return nil, err
	}
	switch {
	case r.Version != Version:
		return nil, fmt.Errorf("version %d, not %d", r.Version, Version)
	case Hex(r.ID) == "" || name != Hex(r.ID)+".json":
		return nil, fmt.Errorf("it is of image %q", r.ID)
	}
	for _, l := range r.Layers {
		if !keyForm.MatchString(l.Key) {
			return nil, fmt.Errorf("layer key %q", l.Key)
		}
		if _, err := os.Lstat(s.LayerDir(l.Key)); err != nil {
			return nil, err
		}
	}
	if _, err := s.Blob(r.ID); err != nil {
		return nil, err
	}
	return &r, nil
}

// Broken says whether records lie set aside: their layers are unknown, so nothing may be swept as unused. It ends when the images are there again
// ([Store.Mend]) or somebody deletes the records.
func (s *Store) Broken() bool {
	records, err := filepath.Glob(s.path("broken", "*.json"))
	return err != nil || len(records) > 0
}

// Mend forgets a record set aside, now that its image is there again. None is no error.
func (s *Store) Mend(id string) error {
	return absentIsFine(os.Remove(s.path("broken", Hex(id)+".json")))
}

// PutRecord makes an image appear, or changes it, by one rename that is on the disk on return. With sync, everything else written to the filesystem is, before.
func (s *Store) PutRecord(r *Record, sync bool) error {
	if Hex(r.ID) == "" {
		return errs.New(errs.InvalidArgument, "image id %q", r.ID)
	}
	r.Version = Version
	if sync {
		if err := s.syncAll(); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return s.writeFile(s.path("records", Hex(r.ID)+".json"), b, true)
}

func (s *Store) syncAll() error {
	d, err := linux.Open(s.dir, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.SyncFilesystem()
}

// DeleteRecord makes an image disappear. One that is not there is no error.
func (s *Store) DeleteRecord(id string) error {
	return absentIsFine(os.Remove(s.path("records", Hex(id)+".json")))
}

// PutBlob stores bytes under their digest, which the caller has checked.
func (s *Store) PutBlob(digest string, data []byte) error {
	h := Hex(digest)
	if h == "" {
		return errs.New(errs.InvalidArgument, "blob digest %q", digest)
	}
	return s.writeFile(s.path("blobs", "sha256", h), data, false)
}

// Blob reads a blob. Absent is NotFound.
func (s *Store) Blob(digest string) ([]byte, error) {
	h := Hex(digest)
	b, err := os.ReadFile(s.path("blobs", "sha256", h))
	if h == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.NotFound, "blob %s: not in the store", digest)
	}
	return b, err
}

// DeleteBlob deletes a blob. One that is not there is no error.
func (s *Store) DeleteBlob(digest string) error {
	if Hex(digest) == "" {
		return nil
	}
	return absentIsFine(os.Remove(s.path("blobs", "sha256", Hex(digest))))
}

// Blobs lists the digests of all blobs.
func (s *Store) Blobs() ([]string, error) {
	entries, err := os.ReadDir(s.path("blobs", "sha256"))
	var digests []string
	for _, e := range entries {
		digests = append(digests, "sha256:"+e.Name())
	}
	return digests, err
}

func (s *Store) writeFile(path string, data []byte, sync bool) (err error) {
	temp := s.tempName()
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	d, err := linux.Open(filepath.Dir(path), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *Store) tempName() string {
	return s.path("tmp", fmt.Sprintf("%d-%d", os.Getpid(), s.temp.Add(1)))
}

// TempFile makes a file for the caller's own use; remove it by its name.
func (s *Store) TempFile() (*os.File, error) {
	return os.OpenFile(s.tempName(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// TempDir makes a directory for the caller's own use, to be given to [Store.Discard].
func (s *Store) TempDir() (string, error) {
	d := s.tempName()
	return d, os.Mkdir(d, 0o700)
}

func readJSON(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return fmt.Errorf("over %d bytes", maxRecord)
	}
	return json.Unmarshal(b, into)
}

func absentIsFine(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
