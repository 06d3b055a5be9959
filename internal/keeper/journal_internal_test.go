package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
	"fermata/internal/logs"
)

// moment is where a keeper is killed between a pipe and a log.
type moment int

const (
	intended moment = iota // the read is noted and has not begun
	read                   // it took place, and nobody noted that
	taken                  // that is noted
	torn                   // some of the entries are in the log, the last one in part
	written                // all are, and nobody noted that
	noted                  // that is noted
	moments
)

// pipeline is a FIFO, a log and what is between them, in the hands of one keeper after another.
type pipeline struct {
	t              *testing.T
	server         *Server
	dir            string
	reader, writer *linux.FD
	out            *output
}

func newPipeline(t *testing.T) *pipeline {
	t.Helper()
	dir := t.TempDir()
	p := &pipeline{t: t, dir: dir, server: &Server{o: Options{Warn: func(err error) { t.Error(err) }}}}
	var err error
	if p.server.scratch.r, p.server.scratch.w, err = linux.ScratchPipe(); err != nil {
		t.Fatal(err)
	}
	if err := linux.Mkfifo(dir+"/fifo", 0, 0); err != nil {
		t.Fatal(err)
	}
	if p.reader, err = linux.Open(dir+"/fifo", os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	if p.writer, err = linux.Open(dir+"/fifo", os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/p.log", logs.Remark(time.Now(), "from before"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { linux.CloseAll(p.reader, p.writer, p.server.scratch.r, p.server.scratch.w) })
	p.begin(newJournal)
	t.Cleanup(func() { p.kill() })
	return p
}

// begin makes a keeper's part, with the journal opened or made.
func (p *pipeline) begin(open func(string, int) (*journal, error)) {
	p.t.Helper()
	dir, err := linux.OpenDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	defer dir.Close()
	file, err := logs.OpenFile(dir, "p.log")
	if err != nil {
		p.t.Fatal(err)
	}
	p.out = newOutput(p.server, logs.NewWriter(file), true)
	p.out.add(source{"stdout", p.reader, false}, 0)
	if p.out.journal, err = open(filepath.Join(p.dir, "p.journal"), 0); err != nil {
		p.t.Fatal(err)
	}
	device, inode, err := file.Identity()
	if err != nil {
		p.t.Fatal(err)
	}
	p.out.resume(file, device == p.out.journal.note.device && inode == p.out.journal.note.inode)
}

// kill drops all that is not in files.
func (p *pipeline) kill() {
	p.out.writer.Close()
	p.out.journal.close()
}

// reads reads what there is, as a keeper does that is killed at a moment.
func (p *pipeline) reads(at moment) {
	p.t.Helper()
	s, j := p.out.streams[0], p.out.journal
	n, err := s.fd.Readable()
	if err != nil {
		p.t.Fatal(err)
	}
	n = j.room(0, min(n, readSize))
	place := j.intend(0, n, p.out.look(s, n))
	if at < read {
		return
	}
	if got, err := s.fd.ReadNow(place); got != n || err != nil {
		p.t.Fatal(got, err)
	}
	if at < taken {
		return
	}
	j.took(0, n)
	if at < torn {
		return
	}
	s.splitter.Stamp(time.Now())
	entries, rest := s.splitter.Append(nil, place, 1<<30)
	if at < written {
		entries = entries[:len(entries)*2/3]
	}
	p.out.writer.Write(entries, time.Now())
	if at == noted {
		j.logged(0, len(rest)+s.splitter.Held(), p.out.writer.Size(), p.out.writer.Loss())
	}
}

// contents is what is in the log, without times.
func (p *pipeline) contents() string {
	p.t.Helper()
	b, err := os.ReadFile(p.dir + "/p.log")
	if err != nil {
		p.t.Fatal(err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(b)) {
		e, err := logs.Parse([]byte(line))
		if err != nil {
			p.t.Fatalf("%v in %q", err, line)
		}
		all.Write(e.Content)
		if !e.Partial {
			all.WriteByte('\n')
		}
	}
	return all.String()
}

func TestAKeeperMayBeKilledAtAnyMoment(t *testing.T) {
	big := strings.Repeat("0123456789abcde\n", 3000)
	for name, said := range map[string][]string{
		"a byte":                    {"\n"},
		"the same byte":             {"y", "y", "y\n", "y"},
		"less than a canary":        {"short\n", "short\n"},
		"a canary":                  {"0123456789abcde\n"},
		"zeros":                     {strings.Repeat("\x00", 40) + "\n"},
		"a line in pieces":          {"one", " two", " three, and it is longer than a canary", " four\n", "five"},
		"many lines":                {big, big, big[:7000]},
		"a line cut at its length":  {strings.Repeat("x", 20000), strings.Repeat("y", 20000), "\n"},
		"a line of exactly its max": {strings.Repeat("x", logs.DefaultMaxLine), "\n"},
	} {
		for at := range moments {
			t.Run(fmt.Sprintf("%s, moment %d", name, at), func(t *testing.T) {
				p := newPipeline(t)
				want := "fermata: from before\n"
				for _, s := range said {
					if _, err := p.writer.Write([]byte(s)); err != nil {
						t.Fatal(err)
					}
					want += s
					if name == "the same byte" { // chance would have it
						copy(p.out.journal.random[:], strings.Repeat("y", canarySize))
					}
					p.reads(at)
					p.kill()
					p.begin(openJournal)
					if at == intended { // only now
						p.reads(noted)
						p.kill()
						p.begin(openJournal)
					}
				}
				if left, err := p.reader.Readable(); left != 0 || err != nil {
					t.Errorf("%d bytes were left in the pipe, %v", left, err)
				}
				p.out.flush(p.out.streams[0], nil)
				if got := strings.TrimSuffix(p.contents(), "\n"); got != strings.TrimSuffix(want, "\n") {
					t.Errorf("the log has %d bytes, want %d:\n%.300q\n%.300q", len(got), len(want), got, want)
				}
			})
		}
	}
}

func TestAFullDiskIsRememberedByTheNextKeeper(t *testing.T) {
	p := newPipeline(t)
	lost := logs.Loss{Dropped: 700, Unmarked: 300, Cause: syscall.ENOSPC}
	p.out.writer.SetLoss(lost)
	p.out.journal.logged(0, 0, p.out.writer.Size(), p.out.writer.Loss())
	p.kill()
	p.begin(openJournal)
	if got := p.out.writer.Loss(); got != lost {
		t.Errorf("lost %+v, want %+v", got, lost)
	}
	p.writer.Write([]byte("and on\n"))
	p.reads(noted)
	if got := p.contents(); got != "fermata: from before\nfermata: 300 bytes of log lost: no space left on device\nand on\n" {
		t.Errorf("log %q", got)
	}
}

func TestABurstsMemoryIsGivenBack(t *testing.T) {
	p := newPipeline(t)
	if err := p.reader.SetPipeSize(1 << 20); err != nil {
		t.Fatal(err)
	}
	p.writer.Write([]byte(strings.Repeat("0123456789abcde\n", 16000)))
	p.reads(noted)
	blocks := func() int64 {
		var st syscall.Stat_t
		if err := syscall.Stat(p.dir+"/p.journal", &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if got := blocks(); got < 200<<10 {
		t.Errorf("%d bytes are used in a burst", got)
	}
	p.out.journal.idle(0)
	if got := blocks(); got > 32<<10 {
		t.Errorf("%d bytes are used after it", got)
	}
	p.writer.Write([]byte("more\n"))
	p.reads(noted)
	if !strings.HasSuffix(p.contents(), "abcde\nmore\n") {
		t.Error("it does not go on")
	}
}

func TestWhatIsNoJournalIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if _, err := openJournal(path, 0); !os.IsNotExist(err) {
		t.Errorf("none there: %v", err)
	}
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(path, 0); err == nil {
		t.Error("something else was taken for one")
	}
	j, err := newJournal(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	j.close()
	if _, err := openJournal(path, 5); err == nil {
		t.Error("one of other lanes was taken")
	}
}

// Notes are read after a crash: whatever is there must not make the next keeper crash too.
func FuzzNote(f *testing.F) {
	n := note{device: 1, inode: 2, size: 3, held: [2]span{{1, 2}, {3, 4}}, reading: 1, count: 9}
	var b [noteSize]byte
	n.encode(b[:])
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decodeNote(b, 4096)
		if err != nil {
			return
		}
		var again [noteSize]byte
		n.encode(again[:])
		if m, err := decodeNote(again[:], 4096); err != nil || m != n {
			t.Errorf("%+v became %+v, %v", n, m, err)
		}
		for i, s := range n.held {
			end := int(s.to)
			if n.reading == uint32(i)+1 {
				end += int(n.count)
			}
			if s.length() < 0 || end > 4096 {
				t.Errorf("lane %d: %+v", i, n)
			}
		}
	})
}
