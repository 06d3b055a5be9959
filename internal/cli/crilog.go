package cli

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"
)

// logEntry is one line of a CRI log: "2016-10-06T00:17:09.669794202Z stdout F content\n". A Partial one has more to come.
type logEntry struct {
	Time    time.Time
	Stream  string
	Partial bool
	// Text without the line break.
	Text []byte
}

// parseLog reads one line, without its line break. A line that is not as the format says is reported as such and shown whole.
func parseLog(line []byte) (logEntry, bool) {
	stamp, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok3 { // an empty line may have lost its last space
		tags, text = rest, nil
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil || !ok1 || !ok2 || (string(stream) != "stdout" && string(stream) != "stderr") {
		return logEntry{Text: line}, false
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	if string(tag) != "F" && string(tag) != "P" {
		return logEntry{Text: line}, false
	}
	return logEntry{Time: at, Stream: string(stream), Partial: string(tag) == "P", Text: text}, true
}

// lineReader gives whole lines; an unfinished one at the end is kept until the rest of it has been written.
type lineReader struct {
	r    *bufio.Reader
	part []byte
}

// next returns the next whole line without its line break, or io.EOF.
func (l *lineReader) next() ([]byte, error) {
	for {
		piece, err := l.r.ReadSlice('\n')
		l.part = append(l.part, piece...)
		switch {
		case err == nil:
			line := l.part[:len(l.part)-1]
			l.part = nil
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		default:
			return nil, err
		}
	}
}

// tailStart returns where the last n lines begin; pieces of a long line (tag P) count as one line with its end. It reads the whole
// log, which the kubelet and fermata keep to some ten megabytes.
func tailStart(log io.Reader, n int) (int64, error) {
	lines := &lineReader{r: bufio.NewReaderSize(log, 64<<10)}
	var starts []int64 // of the last n lines, oldest first
	var offset, start int64
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		offset += int64(len(line)) + 1
		if entry, ok := parseLog(line); ok && entry.Partial {
			continue
		}
		if len(starts) == n && n > 0 {
			starts = append(starts[:0], starts[1:]...)
		}
		if n > 0 {
			starts = append(starts, start)
		}
		start = offset
	}
	if len(starts) == 0 {
		return start, nil
	}
	return starts[0], nil
}
