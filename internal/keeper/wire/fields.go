package wire

import (
	"encoding/binary"
	"errors"
	"time"
)

// fields is a sequence of tag, length, value. Zero values are left out.
type fields []byte

func (f *fields) bytes(tag uint16, v []byte) {
	*f = binary.LittleEndian.AppendUint16(*f, tag)
	*f = binary.LittleEndian.AppendUint32(*f, uint32(len(v)))
	*f = append(*f, v...)
}

func (f *fields) text(tag uint16, s string) {
	if s != "" {
		f.bytes(tag, []byte(s))
	}
}

func (f *fields) number(tag uint16, n uint64) {
	if n != 0 {
		f.bytes(tag, binary.LittleEndian.AppendUint64(nil, n))
	}
}

func (f *fields) flag(tag uint16, b bool) {
	if b {
		f.number(tag, 1)
	}
}

func (f *fields) time(tag uint16, t time.Time) {
	if !t.IsZero() {
		f.number(tag, uint64(t.UnixNano()))
	}
}

var (
	errShort  = errors.New("field cut short")
	errNumber = errors.New("number is not 8 bytes long")
)

// each calls do for every field of b, until an error.
func each(b []byte, do func(tag uint16, v value) error) error {
	for len(b) > 0 {
		if len(b) < 6 {
			return errShort
		}
		tag, n := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint32(b[2:])
		if uint64(n) > uint64(len(b)-6) {
			return errShort
		}
		if err := do(tag, value(b[6:6+n])); err != nil {
			return err
		}
		b = b[6+n:]
	}
	return nil
}

// value is one field's.
type value []byte

func (v value) number(to *uint64) error {
	if len(v) != 8 {
		return errNumber
	}
	*to = binary.LittleEndian.Uint64(v)
	return nil
}

func (v value) text(to *string) error {
	*to = string(v)
	return nil
}

func (v value) flag(to *bool) error {
	var n uint64
	err := v.number(&n)
	*to = n != 0
	return err
}

func (v value) time(to *time.Time) error {
	var n uint64
	err := v.number(&n)
	if n != 0 {
		*to = time.Unix(0, int64(n))
	}
	return err
}

// integer reads a number into any integer type; what does not fit is cut, as the sender's own conversion would.
func integer[T ~int | ~int32 | ~int64 | ~uint8 | ~uint32 | ~uint64](v value, to *T) error {
	var n uint64
	err := v.number(&n)
	*to = T(n)
	return err
}
