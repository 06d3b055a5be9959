// Package errs is fermata's vocabulary of failure.
//
// An error reads "operation object: cause" (no "failed to"), and carries a [Kind] when a caller or a client can act on the
// difference. Kinds are listed here and nowhere else; package cri maps each to one gRPC code in one interceptor. Every other
// package only says which kind it met; nobody ever compares error text.
package errs

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is. The zero value is [Internal].
type Kind uint8

// The kinds, by when they can happen: before anything is done, while looking things up, while doing, and around the call.
const (
	// Internal is a failure of fermata or of the machine that no request can avoid.
	Internal Kind = iota

	// InvalidArgument is a request that can never succeed as it stands; nothing was changed.
	InvalidArgument
	// Unimplemented is a request for something fermata does not do (yet); the message names it.
	Unimplemented

	// NotFound is a request about an object that does not exist.
	NotFound
	// AlreadyExists is a request to make an object that exists with other contents.
	AlreadyExists
	// FailedPrecondition is a request that the object's present state does not allow.
	FailedPrecondition

	// ResourceExhausted is a limit met: addresses, disk, descriptors, tokens.
	ResourceExhausted
	// PermissionDenied is a refusal by a registry or by the kernel.
	PermissionDenied
	// Unavailable is a failure that trying again later may mend: a registry or the keeper away.
	Unavailable

	// Canceled is work given up because its caller did.
	Canceled
	// DeadlineExceeded is work given up because its time ran out.
	DeadlineExceeded

	kinds // count, for tests
)

var kindNames = [kinds]string{
	"internal", "invalid argument", "unimplemented", "not found", "already exists", "failed precondition",
	"resource exhausted", "permission denied", "unavailable", "canceled", "deadline exceeded",
}

// String returns the kind in words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Kinds returns every kind, so that a map over them can be checked for completeness.
func Kinds() []Kind {
	all := make([]Kind, 0, kinds)
	for k := Internal; k < kinds; k++ {
		all = append(all, k)
	}
	return all
}

// Error is a failure with its kind. Make one with [New] or [As].
type Error struct {
	Kind Kind
	// Err is the cause and the whole text.
	Err error
}

// Error returns the text of the cause; the kind is for programs, not for readers.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind from a format, as fmt.Errorf does (%w keeps a cause askable).
func New(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// As gives err a kind, replacing any it had. A nil err stays nil.
func As(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Err: err}
}

// KindOf returns the kind of the outermost [Error] in err's chain; a context's end counts as its own kind, everything else is
// [Internal].
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}

// Is reports whether err is of the given kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
