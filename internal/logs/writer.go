package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"fermata/internal/linux"
)

// OpenFile opens a log file to append to, making it (0640) where missing. base is a single component, not a link; what is there must be a
// regular file.
func OpenFile(dir *linux.FD, base string) (*linux.FD, error) {
	// O_NONBLOCK: a FIFO that somebody put in the file's place must not stop the keeper.
	f, err := dir.OpenNoLinks(base, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := f.CheckRegular(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// File is where a [Writer] writes: a *linux.FD, or a test's.
type File interface {
	Write([]byte) (int, error)
	// CutTail takes n bytes off the file's end.
	CutTail(n int64) error
	// Size is the file's length in bytes.
	Size() (int64, error)
	Close() error
}

var _ File = (*linux.FD)(nil)

// Writer appends entries to a file. It never fails: what the file refuses (no space, a broken disk) is counted and dropped, and the
// first entry after that says how much is missing. One goroutine at a time may use it, except for Dropped.
type Writer struct {
	file    File // nil: everything is dropped in silence (the container has no log, or no more)
	dropped atomic.Uint64
	// unmarked is what of dropped the log does not say yet, and why it was dropped.
	unmarked uint64
	cause    error
}

// errRate is why entries were dropped that came faster than the log may grow.
var errRate = errors.New("written faster than the limit allows")

// Loss is what a Writer could not write: of Dropped bytes the log does not say Unmarked yet, which failed by Cause; 0 for too fast ([Writer.Drop]).
type Loss struct {
	Dropped, Unmarked uint64
	Cause             syscall.Errno
}

// NewWriter appends to file, which it owns.
func NewWriter(file File) *Writer { return &Writer{file: file} }

// Dropped is the number of bytes of entries that could not be written.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Loss returns what is missing, for a Writer that goes on where this one may be killed.
func (w *Writer) Loss() Loss {
	l := Loss{Dropped: w.dropped.Load(), Unmarked: w.unmarked}
	errors.As(w.cause, &l.Cause)
	return l
}

// SetLoss goes on with what an earlier Writer could not write.
func (w *Writer) SetLoss(l Loss) {
	w.dropped.Store(l.Dropped)
	if w.unmarked = l.Unmarked; w.unmarked > 0 {
		if w.cause = l.Cause; l.Cause == 0 {
			w.cause = errRate
		}
	}
}

// Size is the length of the file; 0 without one, or if it cannot be had.
func (w *Writer) Size() int64 {
	if w.file == nil {
		return 0
	}
	n, err := w.file.Size()
	if err != nil {
		return 0
	}
	return n
}

// Write appends whole entries in one write. now is the time of the mark that says what is missing, if it is its turn.
func (w *Writer) Write(entries []byte, now time.Time) {
	if w.file == nil || len(entries) == 0 {
		return
	}
	w.Mark(now)
	if w.unmarked == 0 {
		w.append(entries)
		return
	}
	w.drop(entries, w.cause) // no room for the mark: entries must not come before it
}

// Mark says what is missing, if anything is that the log does not say yet, and the file takes it again.
func (w *Writer) Mark(now time.Time) {
	if w.file == nil || w.unmarked == 0 {
		return
	}
	cause := w.cause
	var errno syscall.Errno
	if errors.As(cause, &errno) {
		cause = errno
	}
	n, err := w.file.Write(Remark(now, fmt.Sprintf("%d bytes of log lost: %v", w.unmarked, cause)))
	if err == nil {
		w.unmarked, w.cause = 0, nil
		return
	}
	w.cause = err
	w.file.CutTail(int64(n)) // half a mark is worse than none; if this fails too, the disk is beyond repair
}

// Remark is an entry of fermata's own, on stderr. text is one line.
func Remark(now time.Time, text string) []byte {
	return fmt.Appendf(now.UTC().AppendFormat(nil, timeFormat), " stderr F fermata: %s\n", text)
}

func (w *Writer) append(entries []byte) {
	n, err := w.file.Write(entries)
	if err == nil {
		return
	}
	whole := bytes.LastIndexByte(entries[:n], '\n') + 1
	if n > whole {
		w.file.CutTail(int64(n - whole))
	}
	w.drop(entries[whole:], err)
}

// Drop drops entries that come too fast: the next ones that are written have the mark of it before them.
func (w *Writer) Drop(entries []byte) { w.drop(entries, errRate) }

func (w *Writer) drop(entries []byte, cause error) {
	w.dropped.Add(uint64(len(entries)))
	w.unmarked += uint64(len(entries))
	w.cause = cause
}

// Reopen goes on in another file, which the Writer owns, and closes the one before.
func (w *Writer) Reopen(file File) {
	if w.file != nil {
		w.file.Close() // its error would concern what was written long before; there is nobody to act on it
	}
	w.file = file
}

// Close closes the file. What is written from then on is dropped in silence.
func (w *Writer) Close() { w.Reopen(nil) }
