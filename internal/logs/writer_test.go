package logs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
)

// smallDisk is a file that takes no more than room bytes.
type smallDisk struct {
	bytes.Buffer
	room   int
	errno  syscall.Errno
	closed bool
}

func (d *smallDisk) Write(p []byte) (int, error) {
	n := min(len(p), max(0, d.room-d.Len()))
	d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, &os.PathError{Op: "write", Path: "log", Err: d.errno}
	}
	return n, nil
}

func (d *smallDisk) CutTail(n int64) error { d.Truncate(d.Len() - int(n)); return nil }
func (d *smallDisk) Size() (int64, error)  { return int64(d.Len()), nil }
func (d *smallDisk) Close() error          { d.closed = true; return nil }

func TestWhatADiskRefusesIsCountedAndMarked(t *testing.T) {
	disk := &smallDisk{room: 12, errno: syscall.ENOSPC}
	w := NewWriter(disk)
	w.Write([]byte("line 1\nline 2\nline 3\n"), when) // of line 2, a part fits
	if got := disk.String(); got != "line 1\n" {
		t.Errorf("a torn line was left: %q", got)
	}
	disk.room = 30 // room for an entry, but not for the mark that must come first
	w.Write([]byte("line 4\n"), when)
	if got := disk.String(); got != "line 1\n" {
		t.Errorf("an entry came before the mark, or a torn mark was left: %q", got)
	}
	disk.room = 1000
	w.Write([]byte("line 5\n"), when)
	if want := "line 1\n" + stamp + " stderr F fermata: 21 bytes of log lost: no space left on device\nline 5\n"; disk.String() != want {
		t.Errorf("log %q, want %q", disk.String(), want)
	}
	if w.Dropped() != 21 {
		t.Errorf("%d bytes counted as dropped, want 21", w.Dropped())
	}
	if _, err := Parse([]byte(strings.Split(disk.String(), "\n")[1])); err != nil {
		t.Errorf("the mark is no entry: %v", err)
	}
}

func TestAMarkIsMadeWithoutFurtherOutput(t *testing.T) {
	disk := &smallDisk{errno: syscall.EIO}
	w := NewWriter(disk)
	w.Write([]byte("lost\n"), when)
	w.Mark(when)
	disk.room = 1000
	w.Mark(when)
	w.Mark(when)
	if want := stamp + " stderr F fermata: 5 bytes of log lost: input/output error\n"; disk.String() != want {
		t.Errorf("log %q, want %q", disk.String(), want)
	}
}

func TestReopenGoesOnInTheNewFile(t *testing.T) {
	one, two := &smallDisk{room: 100}, &smallDisk{room: 100}
	w := NewWriter(one)
	w.Write([]byte("1\n"), when)
	w.Reopen(two)
	w.Write([]byte("2\n"), when)
	w.Close()
	w.Write([]byte("3\n"), when)
	if one.String() != "1\n" || two.String() != "2\n" || !one.closed || !two.closed || w.Dropped() != 0 {
		t.Errorf("files %q and %q, closed %v and %v, dropped %d", one, two, one.closed, two.closed, w.Dropped())
	}
}

func TestOpenFile(t *testing.T) {
	path := t.TempDir()
	dir, err := linux.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for range 2 { // the second finds the first's
		f, err := OpenFile(dir, "0.log")
		if err != nil {
			t.Fatal(err)
		}
		w := NewWriter(f)
		w.Write([]byte("line\n"), when)
		w.Close()
	}
	name := filepath.Join(path, "0.log")
	b, err := os.ReadFile(name)
	if err != nil || string(b) != "line\nline\n" {
		t.Errorf("log %q, %v", b, err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := os.Symlink("0.log", filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(dir, "link"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link was followed: %v", err)
	}
	if err := linux.Mkfifo(filepath.Join(path, "fifo"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(dir, "fifo"); err == nil {
		t.Error("a FIFO was taken for a log")
	}
	if err := os.Mkdir(filepath.Join(path, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(dir, "dir"); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
}

// A batch of 100-byte lines, as a keeper reads it, to a file on the disk of the test machine.
func BenchmarkLog(b *testing.B) {
	for _, c := range []struct {
		name string
		line int
	}{{"100-byte lines", 100}, {"20-byte lines", 20}, {"10000-byte lines", 10000}} {
		b.Run(c.name, func(b *testing.B) {
			dir, err := linux.OpenDir(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer dir.Close()
			f, err := OpenFile(dir, "0.log")
			if err != nil {
				b.Fatal(err)
			}
			w := NewWriter(f)
			defer w.Close()
			s := NewSplitter("stdout", 0, false)
			batch := bytes.Repeat(append(bytes.Repeat([]byte("x"), c.line-1), '\n'), 256<<10/c.line)
			out := make([]byte, 0, 512<<10)
			b.SetBytes(int64(len(batch)))
			written := 0
			for b.Loop() {
				now := time.Now()
				s.Stamp(now)
				for rest := batch; len(rest) > 0; {
					out, rest = s.Append(out[:0], rest, 384<<10)
					w.Write(out, now)
					written += len(out)
				}
				if written > 512<<20 { // the test machine's disk is small
					f.Truncate(0)
					written = 0
				}
			}
		})
	}
}
