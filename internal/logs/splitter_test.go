package logs

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

var when = time.Date(2016, 10, 6, 2, 17, 9, 669794202, time.FixedZone("CEST", 2*3600))

const stamp = "2016-10-06T00:17:09.669794202Z"

// split gives a Splitter data in chunks and returns the entries without time and stream: "F text".
func split(s *Splitter, limit int, chunks ...string) []string {
	s.Stamp(when)
	var log []byte
	for _, c := range chunks {
		for rest := []byte(c); len(rest) > 0; {
			var batch []byte
			batch, rest = s.Append(nil, rest, limit)
			if len(batch) > limit+s.Room() {
				panic(fmt.Sprintf("batch of %d bytes, limit %d, room %d", len(batch), limit, s.Room()))
			}
			log = append(log, batch...)
		}
	}
	log = s.Flush(log)
	var entries []string
	for line := range strings.Lines(string(log)) {
		entries = append(entries, strings.TrimPrefix(strings.TrimSuffix(line, "\n"), stamp+" stdout "))
	}
	return entries
}

func TestStreamsAreCutIntoEntries(t *testing.T) {
	long := strings.Repeat("x", DefaultMaxLine)
	for _, c := range []struct {
		name   string
		tty    bool
		max    int
		chunks []string
		want   []string
	}{
		{"whole lines", false, 0, []string{"a\nb\n"}, []string{"F a", "F b"}},
		{"an empty line", false, 0, []string{"\n\n"}, []string{"F ", "F "}},
		{"a line in several reads", false, 0, []string{"a", "b", "c\nd", "\n"}, []string{"F abc", "F d"}},
		{"no newline at the end", false, 0, []string{"a\nb"}, []string{"F a", "P b"}},
		{"nothing", false, 0, nil, nil},
		{"exactly the longest line", false, 0, []string{long + "\n"}, []string{"F " + long}},
		{"exactly the longest line, newline read later", false, 0, []string{long, "\n"}, []string{"F " + long}},
		{"one byte over", false, 0, []string{long + "y\n"}, []string{"P " + long, "F y"}},
		{"one byte over, read later", false, 0, []string{long, "y", "\n"}, []string{"P " + long, "F y"}},
		{"twice the longest", false, 0, []string{long + long + "\n"}, []string{"P " + long, "F " + long}},
		{"a limit of its own", false, 2, []string{"abcde\n"}, []string{"P ab", "P cd", "F e"}},
		{"no limit", false, -1, []string{long + long + "\n"}, []string{"F " + long + long}},
		{"a carriage return is content without a terminal", false, 0, []string{"a\r\n"}, []string{"F a\r"}},
		{"a carriage return is dropped with a terminal", true, 0, []string{"a\r\nb\r\n"}, []string{"F a", "F b"}},
		{"a carriage return and its newline in two reads", true, 0, []string{"a\r", "\n"}, []string{"F a"}},
		{"a carriage return alone stays", true, 0, []string{"a\rb\r\r\n"}, []string{"F a\rb\r"}},
		{"a carriage return does not count", true, 2, []string{"ab\r\n"}, []string{"F ab"}},
		{"nor when its newline comes later", true, 2, []string{"ab\r", "\n"}, []string{"F ab"}},
		{"nor when it comes later", true, 2, []string{"ab", "\r\n"}, []string{"F ab"}},
		{"nor when both come later", true, 2, []string{"ab", "\r", "\n"}, []string{"F ab"}},
		{"but counts before anything else", true, 2, []string{"ab\rc\n"}, []string{"P ab", "F \rc"}},
		{"also when that comes later", true, 2, []string{"ab\r", "c\n"}, []string{"P ab", "F \rc"}},
		{"over the limit with a terminal", true, 2, []string{"abc\r\n"}, []string{"P ab", "F c"}},
		{"a held carriage return at the end", true, 2, []string{"ab\r"}, []string{"P ab\r"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, limit := range []int{1, 1 << 20} {
				got := split(NewSplitter("stdout", c.max, c.tty), limit, c.chunks...)
				if fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("limit %d: entries %.200q, want %.200q", limit, got, c.want)
				}
			}
		})
	}
}

// However a stream is read, its entries are those of one read, their contents make up the stream, and none is too long.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a\nbc\r\n\rdefg"), uint8(2), true, uint8(3))
	f.Add([]byte("a\nbc\r\n\rdefg"), uint8(1), false, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, limit uint8, tty bool, step uint8) {
		maxLine := int(limit)%9 + 1
		whole := split(NewSplitter("stdout", maxLine, tty), 1<<20, string(data))
		var chunks []string
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(step)%7+1)
			chunks = append(chunks, string(rest[:n]))
			rest = rest[n:]
		}
		if cut := split(NewSplitter("stdout", maxLine, tty), 1, chunks...); fmt.Sprint(cut) != fmt.Sprint(whole) {
			t.Errorf("in pieces of %d: %q, at once: %q", step, cut, whole)
		}
		var again []byte
		for _, e := range whole {
			content := e[2:]
			if len(content) > maxLine && content != content[:maxLine]+"\r" {
				t.Errorf("entry %q is over %d", e, maxLine)
			}
			again = append(again, content...)
			if e[0] == 'F' {
				again = append(again, '\n')
			}
		}
		want := data
		if tty {
			want = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
		}
		if !bytes.Equal(again, want) {
			t.Errorf("entries hold %q, the stream %q", again, want)
		}
	})
}

func TestWhatIsWrittenParses(t *testing.T) {
	s := NewSplitter("stderr", 3, false)
	s.Stamp(when)
	log, _ := s.Append(nil, []byte("a b c\n"), 1<<10)
	var got []string
	for line := range bytes.Lines(log) {
		e, err := Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if !e.Time.Equal(when) || e.Stream != "stderr" {
			t.Errorf("entry %+v", e)
		}
		got = append(got, fmt.Sprintf("%v %s", e.Partial, e.Content))
	}
	if want := "[true a b false  c]"; fmt.Sprint(got) != want {
		t.Errorf("parsed %v, want %v", got, want)
	}
}

func TestLinesThatAreNoLogAreRefused(t *testing.T) {
	for _, line := range []string{"", "x", stamp, stamp + " stdout F", stamp + " stdin F x", stamp + " stdout X x", "yesterday stdout F x"} {
		if e, err := Parse([]byte(line)); err == nil {
			t.Errorf("%q parsed as %+v", line, e)
		}
	}
	if e, err := Parse([]byte("2016-10-06T02:17:09.66+02:00 stdout F:new x y\n")); err != nil || string(e.Content) != "x y" || e.Partial {
		t.Errorf("a future tag: %+v, %v", e, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(stamp + " stdout F x\n"))
	f.Fuzz(func(t *testing.T, line []byte) { Parse(line) })
}
