// Package durable keeps records on disk: one JSON file a record, readable by a person, replaced whole or not at all.
//
// A file is an object whose first two fields are its envelope, followed by the record's own fields:
//
//	{
//		"kind": "pod",
//		"version": "1.0",
//		"id": "6f1c…"
//	}
//
// Versions are "major.minor". A record of a newer minor version is read, and what this program does not know of it is kept when it is
// written again if the record embeds [Newer]. A record of another major version, of another kind, or one that cannot be parsed is
// [Quarantine]d by [Read] and reported: one broken file costs one record.
//
// A record is written to a temporary file beside it and renamed, so that whoever reads sees the old one or the new one. Files are 0600.
// Power cuts are only considered on request ([Options.Sync]).
//
// What belongs elsewhere: what a pod is, which directories there are, who may write when. Nobody writes one record from two places.
package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"fermata/internal/errs"
)

// Version is the version of records that do not say theirs.
const Version = "1.0"

// Versioned is a record that has a version of its own, "major.minor". Its zero value must be able to say it.
type Versioned interface{ RecordVersion() string }

// Options say how a record is written. The zero value is right on the start path.
type Options struct {
	// Sync waits until the record would survive a power cut (fdatasync of the file, fsync of its directory).
	Sync bool
}

// Write writes v, a struct (or pointer to one) that encoding/json can encode, as the record at path. The directory must exist.
// v's fields must not be called "kind" or "version".
func Write(path, kind string, v any, o Options) error {
	b, err := encode(kind, v)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", kind, path, err)
	}
	tmp, err := writeTemporary(path, b, o)
	if err != nil {
		return fmt.Errorf("write %s %s: %w", kind, path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s %s: %w", kind, path, err)
	}
	if !o.Sync {
		return nil
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s %s: %w", kind, path, err)
	}
	return nil
}

// Read reads the record at path into v, a pointer to a struct. A missing file is errs.NotFound (and fs.ErrNotExist). A file that is no
// record of this kind, or of another major version, is set aside by [Quarantine], the error is a [*BrokenError] that names both places.
func Read(path, kind string, v any) error {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errs.New(errs.NotFound, "read %s: %w", kind, err)
	case err != nil:
		return fmt.Errorf("read %s: %w", kind, err)
	}
	if err := decode(b, kind, v); err != nil {
		broken := &BrokenError{Path: path, Kind: kind, Err: err}
		if broken.SetAside, err = Quarantine(path); err != nil {
			broken.Err = errors.Join(broken.Err, err)
		}
		return broken
	}
	return nil
}

// BrokenError reports a file that could not be understood and where it was set aside.
type BrokenError struct {
	Path, Kind string
	// SetAside is the file's new path; "" if it could not be renamed, Err says why.
	SetAside string
	Err      error
}

// Error names the file, the cause and the file's new place.
func (e *BrokenError) Error() string {
	if e.SetAside == "" {
		return fmt.Sprintf("read %s %s: %v", e.Kind, e.Path, e.Err)
	}
	return fmt.Sprintf("read %s %s: %v (set aside as %s)", e.Kind, e.Path, e.Err, e.SetAside)
}

// Unwrap returns the cause.
func (e *BrokenError) Unwrap() error { return e.Err }

// Quarantine sets a file or directory aside as "<name>.broken-<time>" and returns its new path. Readers that list a directory skip
// such names with [IsRecord].
func Quarantine(path string) (string, error) {
	base := path + ".broken-" + time.Now().UTC().Format("20060102T150405.000000000Z")
	for aside, n := base, 1; ; n++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			if err := os.Rename(path, aside); err != nil {
				return "", fmt.Errorf("set aside %s: %w", path, err)
			}
			return aside, nil
		}
		aside = base + "-" + strconv.Itoa(n) // set aside within the same tick of the clock
	}
}

// MakeDir makes a directory for records and its parents, 0700. It may exist.
func MakeDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make directory for records: %w", err)
	}
	return nil
}

// IsRecord reports whether a name in a directory of records is one's: neither a temporary file nor something set aside.
func IsRecord(name string) bool {
	return !strings.HasPrefix(name, temporaryPrefix) && !strings.Contains(name, ".broken-")
}

// Sweep removes the temporary files that writers killed in the middle left in a directory of records. Nobody may be writing there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep records: %w", err)
	}
	var failed []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporaryPrefix) {
			failed = append(failed, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(failed...)
}

const temporaryPrefix = ".writing-"

// serial makes temporary names unique within the process; O_EXCL does the rest.
var serial atomic.Uint64

func writeTemporary(path string, b []byte, o Options) (name string, err error) {
	var f *os.File
	for {
		name = filepath.Join(filepath.Dir(path), temporaryPrefix+strconv.Itoa(os.Getpid())+"-"+strconv.FormatUint(serial.Add(1), 10)+"-"+filepath.Base(path))
		f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) { // else: left by an earlier process with our PID
			break
		}
	}
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	if err == nil && o.Sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(name)
		return "", err
	}
	return name, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func indent(b []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "\t"); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
