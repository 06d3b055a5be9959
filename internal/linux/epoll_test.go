package linux

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// fifo returns both ends of a new FIFO, the reader non-blocking.
func fifo(t *testing.T) (r, w *FD) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := Mkfifo(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err = Open(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { CloseAll(r, w) })
	return r, w
}

func TestPollerReportsWhatIsNew(t *testing.T) {
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	once, onceEnd := fifo(t)
	edge, edgeEnd := fifo(t)
	const onceToken, edgeToken = 1<<40 | 7, 3 // both halves of a token count
	if err := p.Add(once, PollIn|PollOnce, onceToken); err != nil {
		t.Fatal(err)
	}
	if err := p.Add(edge, PollIn|PollEdge, edgeToken); err != nil {
		t.Fatal(err)
	}
	if err := p.Add(edge, PollIn, 4); err == nil {
		t.Error("one descriptor was added twice")
	}
	// heard collects what is reported until a Wake: that is after everything before it.
	heard := func() (tokens []uint64) {
		t.Helper()
		if err := p.Wake(); err != nil {
			t.Fatal(err)
		}
		events, err := p.Wait(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			tokens = append(tokens, e.Token)
		}
		slices.Sort(tokens)
		return tokens
	}
	expect := func(what string, want ...uint64) {
		t.Helper()
		if got := heard(); !slices.Equal(got, want) {
			t.Errorf("%s: reported %v, want %v", what, got, want)
		}
	}
	expect("nothing has happened")
	onceEnd.Write([]byte("x"))
	edgeEnd.Write([]byte("x"))
	expect("both are readable", edgeToken, onceToken)
	expect("nothing is new")
	onceEnd.Write([]byte("x"))
	edgeEnd.Write([]byte("x"))
	expect("more came, once was told", edgeToken)
	if err := p.Rearm(once, PollIn|PollOnce, onceToken); err != nil {
		t.Fatal(err)
	}
	expect("asked again, something is still there", onceToken)
	if err := p.Remove(edge); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(edge); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	if err := p.Rearm(edge, PollIn, edgeToken); err == nil {
		t.Error("asked again of what is not watched")
	}
	edgeEnd.Write([]byte("x"))
	expect("it is not watched any more")
}

func TestReadNowNeverWaits(t *testing.T) {
	r, w := fifo(t)
	buf := make([]byte, 10)
	if n, err := r.ReadNow(buf); n != 0 || err != nil {
		t.Errorf("nothing there: %d, %v", n, err)
	}
	if _, err := w.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadNow(buf); string(buf[:n]) != "text" || err != nil {
		t.Errorf("text there: %q, %v", buf[:n], err)
	}
	if err := r.SetPipeSize(1 << 20); err != nil {
		t.Error(err)
	}
	w.Close()
	if n, err := r.ReadNow(buf); n != 0 || err != io.EOF {
		t.Errorf("no writer: %d, %v", n, err)
	}
}

func TestAFIFOIsItsOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := Mkfifo(path, 12, 34); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); st.Mode() != os.ModeNamedPipe|0o600 || sys.Uid != 12 || sys.Gid != 34 {
		t.Errorf("mode %v, owner %d:%d", st.Mode(), sys.Uid, sys.Gid)
	}
	if err := Mkfifo(path, 0, 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
}
