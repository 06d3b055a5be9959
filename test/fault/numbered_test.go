package fault

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"

	"fermata/internal/logs"
	"fermata/test/fault/lines"
)

// numbered is what a log of package lines holds.
type numbered struct {
	count [2]int // lines of stdout and of stderr
	piece [2][]byte
	// ended says that the writer's last line is there, which says how many lines there are, how many writes took more than 10 ms, how many of those because
	// nobody read, and how many microseconds the slowest took.
	ended                  bool
	said                   [2]int
	blocked, slow, slowest int
	// marks are fermata's own words. After one that says how much is missing (lost is the sum, in bytes) any later line is the next.
	marks []string
	lost  int
	gap   [2]bool
}

// blockedFlag is for a machine that does nothing else: on any other, the time of a write says how busy that is.
var blockedFlag = flag.Int("blocked", -1, "fail when more writes than so many were blocked for over 10 ms; -1: only tell how many were")

// tooSlow says whether more writes were blocked than may be.
func (n *numbered) tooSlow() bool { return *blockedFlag >= 0 && n.blocked > *blockedFlag }

// readNumbered reads a log, in the order of its files: each line is the next of its stream, and as it was written.
func readNumbered(files ...string) (*numbered, error) {
	n := &numbered{}
	for _, file := range files {
		if err := n.readFile(file); err != nil {
			return n, fmt.Errorf("%s: %w", file, err)
		}
	}
	return n, nil
}

// whole says that all is there to the last line.
func (n *numbered) whole() bool { return n.ended && n.said == n.count }

func (n *numbered) readFile(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	var want []byte
	for at := 1; ; at++ {
		line, err := r.ReadSlice('\n')
		if err != nil && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d is torn: %q", at, line)
		}
		if want, err = n.entry(line, want); err != nil {
			return fmt.Errorf("line %d: %w", at, err)
		}
	}
}

// entry takes one line of a file. want is room for what it compares with.
func (n *numbered) entry(line, want []byte) ([]byte, error) {
	e, err := logs.Parse(line)
	if err != nil {
		return want, fmt.Errorf("%w: %q", err, line)
	}
	if mark, ok := bytes.CutPrefix(e.Content, []byte("fermata: ")); ok {
		n.marks = append(n.marks, string(mark))
		var lost int
		if _, err := fmt.Sscanf(string(mark), "%d bytes of log lost", &lost); err == nil {
			n.lost += lost
			n.gap, n.piece = [2]bool{true, true}, [2][]byte{}
		}
		return want, nil
	}
	stream := strings.Index("stdoutstderr", e.Stream) / 6
	content := e.Content
	if e.Partial || len(n.piece[stream]) > 0 {
		n.piece[stream] = append(n.piece[stream], content...)
		if e.Partial {
			return want, nil
		}
		content = n.piece[stream]
		n.piece[stream] = n.piece[stream][:0]
	}
	if n.ended && stream == 0 {
		return want, fmt.Errorf("%.80q comes after the last", content)
	}
	if stream == 0 && bytes.HasPrefix(content, []byte("end ")) {
		n.ended = true
		_, err := fmt.Sscanf(string(content), "end %d %d %d %d %d", &n.said[0], &n.said[1], &n.blocked, &n.slow, &n.slowest)
		return want, err
	}
	if n.gap[stream] {
		var number int
		if _, err := fmt.Sscan(string(content), &number); err != nil || number < n.count[stream] {
			return want, nil // the end of a line whose beginning is missing
		}
		n.count[stream], n.gap[stream] = number, false
	}
	want = lines.Append(want[:0], n.count[stream])
	if !bytes.Equal(content, want[:len(want)-1]) {
		return want, fmt.Errorf("%s has %.80q, want %.80q", e.Stream, content, want)
	}
	n.count[stream]++
	return want, nil
}
