package logs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Entry is one line of a log file.
type Entry struct {
	Time time.Time
	// Stream is "stdout" or "stderr".
	Stream string
	// Partial says that the line goes on in the stream's next entry.
	Partial bool
	// Content is the text without a newline; it shares Parse's memory.
	Content []byte
}

// Parse reads a log file's line, with or without its newline. Tags after the first (separated by ':') are for the future and skipped.
func Parse(line []byte) (Entry, error) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	stamp, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, content, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return Entry{}, errors.New("parse log line: not time, stream, tag and content")
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Entry{}, fmt.Errorf("parse log line: %w", err)
	}
	e := Entry{Time: t, Stream: string(stream), Content: content}
	if e.Stream != "stdout" && e.Stream != "stderr" {
		return Entry{}, fmt.Errorf("parse log line: unknown stream %q", e.Stream)
	}
	switch tag, _, _ := strings.Cut(string(tags), ":"); tag {
	case "F":
	case "P":
		e.Partial = true
	default:
		return Entry{}, fmt.Errorf("parse log line: unknown tag %q", tag)
	}
	return e, nil
}
