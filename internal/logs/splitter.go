package logs

import (
	"bytes"
	"time"
)

const (
	// DefaultMaxLine is the length over which a line is cut, in bytes, without its newline.
	DefaultMaxLine = 16 << 10
	// LongestMaxLine is what "no limit" means: the beginning of a line is held in memory until its end is seen.
	LongestMaxLine = 1 << 20

	timeFormat = "2006-01-02T15:04:05.000000000Z07:00" // RFC3339Nano with all its digits: entries stay aligned and need no thought to write
	headerSize = len("2006-01-02T15:04:05.000000000Z stdout F ")
)

// Splitter cuts one stream into entries. It holds the beginning of an unfinished piece between calls.
type Splitter struct {
	stream string
	max    int
	tty    bool
	full   []byte // header of a whole line or a line's last piece
	part   []byte // header of a piece with more to come
	held   []byte // what came of the piece that is not finished; at most max bytes, or max and a "\r"
}

// MaxLine is the length over which a line is cut, asked for as wire.Log has it: 0 for DefaultMaxLine, negative for LongestMaxLine.
func MaxLine(asked int) int {
	switch {
	case asked == 0:
		return DefaultMaxLine
	case asked < 0 || asked > LongestMaxLine:
		return LongestMaxLine
	}
	return asked
}

// NewSplitter returns a Splitter for "stdout" or "stderr". maxLine is as [MaxLine] takes it. tty drops a "\r" before "\n".
func NewSplitter(stream string, maxLine int, tty bool) *Splitter {
	s := &Splitter{stream: stream, max: MaxLine(maxLine), tty: tty}
	s.Stamp(time.Time{})
	return s
}

// Stamp sets the time that the following entries bear.
func (s *Splitter) Stamp(t time.Time) {
	s.full = t.UTC().AppendFormat(s.full[:0], timeFormat)
	s.full = append(append(append(s.full, ' '), s.stream...), " F "...)
	s.part = append(s.part[:0], s.full...)
	s.part[len(s.part)-2] = 'P'
}

// Room is how much more than its limit Append may append: one entry of the greatest length.
func (s *Splitter) Room() int { return headerSize + s.max + 1 }

// Append appends to dst the entries that src completes, until dst has at least limit bytes, and returns what is left of src. When
// nothing is left the Splitter may hold a piece; it keeps no part of src.
func (s *Splitter) Append(dst, src []byte, limit int) (entries, rest []byte) {
	for len(src) > 0 && len(dst) < limit {
		n := s.max - len(s.held) // bytes that the piece may still grow; -1 if a "\r" is held beyond
		if n < 0 && src[0] != '\n' {
			dst = s.entry(dst, s.part, s.held[:s.max], nil)
			s.held = append(s.held[:0], '\r')
			continue
		}
		look := n + 1
		if s.tty {
			look++
		}
		i := bytes.IndexByte(src[:min(look, len(src))], '\n')
		switch {
		case i == 0, i > 0 && (i <= n || src[i-1] == '\r'): // i > n only with a terminal
			dst = s.line(dst, src[:i])
			src = src[i+1:]
		case len(src) <= n, i < 0 && s.tty && len(src) == n+1 && src[n] == '\r':
			s.held = append(s.held, src...)
			return dst, nil
		default:
			dst = s.entry(dst, s.part, s.held, src[:n])
			s.held = s.held[:0]
			src = src[n:]
		}
	}
	return dst, src
}

// Held is how many bytes of an unfinished piece are held: the last ones that were appended.
func (s *Splitter) Held() int { return len(s.held) }

// Idle frees memory kept for the next piece, if none has begun.
func (s *Splitter) Idle() {
	if len(s.held) == 0 {
		s.held = nil
	}
}

// Flush appends what is held as a piece: at the stream's end.
func (s *Splitter) Flush(dst []byte) []byte {
	if len(s.held) > 0 {
		dst = s.entry(dst, s.part, s.held, nil)
	}
	s.held = nil // the stream may be idle from now on
	return dst
}

// line appends what is held and its end as a whole line.
func (s *Splitter) line(dst, end []byte) []byte {
	held := s.held
	if s.tty {
		switch {
		case len(end) > 0 && end[len(end)-1] == '\r':
			end = end[:len(end)-1]
		case len(end) == 0 && len(held) > 0 && held[len(held)-1] == '\r':
			held = held[:len(held)-1]
		}
	}
	dst = s.entry(dst, s.full, held, end)
	if s.held != nil {
		s.held = s.held[:0]
	}
	return dst
}

func (s *Splitter) entry(dst, header, a, b []byte) []byte {
	return append(append(append(append(dst, header...), a...), b...), '\n')
}
