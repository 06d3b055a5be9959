package errs

import (
	"errors"
	"io/fs"
	"syscall"
)

// Culprit is what is to blame for a failure, as far as it can be named: people look for it first.
type Culprit struct {
	// Kind is the sort of thing, as people call it: "CNI plugin", "registry", "image", "file", "program", "disk".
	Kind string
	// Name is which one.
	Name string
}

// String is "CNI plugin bridge"; "" for nobody.
func (c Culprit) String() string {
	if c == (Culprit{}) {
		return ""
	}
	return c.Kind + " " + c.Name
}

// blamed is an error with its culprit; its text and its kind are the cause's.
type blamed struct {
	error
	culprit Culprit
}

// Unwrap returns the cause.
func (b *blamed) Unwrap() error { return b.error }

// Blame names the culprit of an error. A nil err stays nil.
func Blame(err error, kind, name string) error {
	if err == nil {
		return nil
	}
	return &blamed{err, Culprit{kind, name}}
}

// CulpritOf returns who is to blame: a disk that is full, read-only or broken before everybody, else who was named closest to the cause.
func CulpritOf(err error) Culprit {
	if disk, is := ofDisk(err); is {
		return disk
	}
	var c Culprit
	for b := (*blamed)(nil); errors.As(err, &b); err = b.error {
		c = b.culprit
	}
	return c
}

// ofDisk says whether an error is a disk's.
func ofDisk(err error) (Culprit, bool) {
	var path *fs.PathError
	switch {
	case !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) && !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EIO):
		return Culprit{}, false
	case errors.As(err, &path):
		return Culprit{"disk", "of " + path.Path}, true
	}
	return Culprit{"disk", "(full, read-only or broken)"}, true
}
