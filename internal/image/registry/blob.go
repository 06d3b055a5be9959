package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"fermata/internal/errs"
)

// resumes is how often in a row a download that brings nothing is taken up again.
const resumes = 3

// Blob begins the download of a blob of a known size (-1 if not known). One that breaks off is taken up where it was; reading ends in an error at the latest
// when that has failed [resumes] times in a row. The digest is the caller's to check.
func (r *Repository) Blob(ctx context.Context, digest string, size int64) (io.ReadCloser, error) {
	b := &blob{repository: r, ctx: ctx, digest: digest, size: size}
	return b, b.open()
}

type blob struct {
	repository *Repository
	ctx        context.Context
	digest     string
	size       int64
	at         int64
	body       io.ReadCloser // nil when broken off
	failed     int           // times in a row
}

// open asks for what is still missing.
func (b *blob) open() error {
	return b.repository.each(true, func(e *endpoint) error {
		header := http.Header{}
		if b.at > 0 {
			header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
		}
		body, resp, err := e.get(b.ctx, http.MethodGet, "blobs/"+b.digest, header)
		if err != nil {
			return err
		}
		if b.at > 0 && resp.StatusCode == http.StatusOK { // it does not do ranges
			if _, err := io.CopyN(io.Discard, body, b.at); err != nil {
				return errors.Join(err, body.Close())
			}
		}
		b.body = body
		return nil
	})
}

func (b *blob) Read(p []byte) (int, error) {
	for {
		if b.body == nil {
			if err := b.again(); err != nil {
				return 0, err
			}
		}
		n, err := b.body.Read(p)
		b.at += int64(n)
		if n > 0 {
			b.failed = 0
			return n, nil // an error comes again with the next read
		}
		if err == nil {
			continue
		}
		if err == io.EOF && b.at >= b.size {
			return 0, io.EOF
		}
		if err == io.EOF {
			err = away("blob %s: it ends after %d of %d bytes", b.digest, b.at, b.size)
		}
		if b.failed++; b.failed > resumes || b.ctx.Err() != nil || errors.Is(err, errStalled) {
			return 0, err
		}
		_ = b.body.Close()
		b.body = nil
	}
}

// again waits a little, longer each time, and asks for the rest.
func (b *blob) again() error {
	for {
		select {
		case <-b.ctx.Done():
			return fmt.Errorf("blob %s: %w", b.digest, context.Cause(b.ctx))
		case <-time.After(time.Duration(b.failed*b.failed) * 50 * time.Millisecond):
		}
		err := b.open()
		if err == nil || !errs.Is(err, errs.Unavailable) || errors.Is(err, errStalled) {
			return err
		}
		if b.failed++; b.failed > resumes {
			return err
		}
	}
}

func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}
