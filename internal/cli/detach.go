package cli

import (
	"bytes"
	"errors"
	"io"
	"strings"
)

// defaultDetachKeys are Docker's and Podman's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

var errDetached = errors.New("detached")

// detachKeys reads keys as Docker writes them: single characters and ctrl-<character>, with commas between. None is for never.
func detachKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for word := range strings.SplitSeq(text, ",") {
		control, ok := strings.CutPrefix(strings.ToLower(word), "ctrl-")
		switch {
		case !ok && len(word) == 1:
			keys = append(keys, word[0])
		case ok && len(control) == 1 && (control[0] >= 'a' && control[0] <= 'z' || strings.Contains(`@[\]^_`, control)):
			keys = append(keys, control[0]&0x1f)
		default:
			return nil, misused("--detach-keys %q: %q is no key: one character, or ctrl- with one of a-z @ [ \\ ] ^ _", text, word)
		}
	}
	return keys, nil
}

// detacher reads on until the keys come; then the error is errDetached. Keys that began like them and went on otherwise are given as they came, later.
type detacher struct {
	from io.Reader
	keys []byte // at least one
	held []byte // a beginning of keys, held back
	rest []byte // to be given
	err  error  // after rest
}

// Read implements io.Reader.
func (d *detacher) Read(p []byte) (int, error) {
	buf := make([]byte, len(p))
	for len(d.rest) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.from.Read(buf)
		d.take(buf[:n])
		if err != nil && d.err == nil {
			d.rest, d.held, d.err = append(d.rest, d.held...), nil, err
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// take looks for the keys in what was typed.
func (d *detacher) take(typed []byte) {
	for _, key := range typed {
		d.held = append(d.held, key)
		for !bytes.HasPrefix(d.keys, d.held) {
			d.rest, d.held = append(d.rest, d.held[0]), d.held[1:]
		}
		if len(d.held) == len(d.keys) {
			d.err = errDetached
			return
		}
	}
}
