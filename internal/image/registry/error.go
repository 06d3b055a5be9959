package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"fermata/internal/errs"
)

// ErrUnavailable is in the chain of every failure that is the registry's being away: refused, reset, 429, 5xx, silent. The kubelet looks for this word.
var ErrUnavailable = errors.New("RegistryUnavailable")

// errStalled ends a request whose answer stopped coming.
var errStalled = errors.New("no byte received")

// unavailable marks an error as the registry's being away without changing its text.
type unavailable struct{ error }

func (u unavailable) Unwrap() []error { return []error{ErrUnavailable, u.error} }

func away(format string, args ...any) error {
	return errs.As(errs.Unavailable, unavailable{fmt.Errorf(format, args...)})
}

// requestError names a request that got no (whole) answer. URLs of redirects carry signatures, so only host and path are told.
func requestError(req *http.Request, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	what := req.Method + " " + place(req.URL)
	if cause := context.Cause(req.Context()); cause != nil {
		if errors.Is(cause, errStalled) {
			return away("%s: %w", what, cause)
		}
		return fmt.Errorf("%s: %w", what, cause)
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var wrong x509.HostnameError
	var record tls.RecordHeaderError
	if errors.As(err, &unknown) || errors.As(err, &invalid) || errors.As(err, &wrong) || errors.As(err, &record) || errors.Is(err, errDowngrade) {
		return errs.New(errs.FailedPrecondition, "%s: %w", what, err)
	}
	return away("%s: %w", what, err)
}

// statusError is an answer that is not what was asked for.
func statusError(req *http.Request, status int, said string) error {
	text := fmt.Sprintf("%s %s: %d %s", req.Method, place(req.URL), status, http.StatusText(status))
	if said != "" {
		text += " (" + said + ")"
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return errs.New(errs.PermissionDenied, "%s", text)
	case status == http.StatusNotFound:
		return errs.New(errs.NotFound, "%s", text)
	case status == http.StatusTooManyRequests || status >= 500:
		return away("%s", text)
	}
	return errs.New(errs.Internal, "%s", text)
}

// said is what a registry's error body says, in printable form.
func said(body []byte) string {
	var e struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	var all []string
	for _, x := range e.Errors[:min(len(e.Errors), 3)] {
		all = append(all, strings.TrimSpace(strings.ToLower(strings.ReplaceAll(x.Code, "_", " "))+": "+x.Message))
	}
	return clip(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.Join(all, "; ")))
}

func place(u *url.URL) string { return u.Scheme + "://" + u.Host + u.Path }

func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}
