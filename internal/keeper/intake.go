package keeper

import (
	"io"
	"sync"
	"time"

	"fermata/internal/linux"
	"fermata/internal/logs"
)

// take reads what a stream has, as far as there is room for it. The caller holds o.writing. ended says that the process has.
func (o *output) take(s *stream, b *buffers, ended bool) ([]byte, error) {
	if s.fd == nil {
		return nil, nil
	}
	if o.journal == nil {
		if b.in == nil {
			b.in = make([]byte, readSize)
		}
		n, err := s.fd.ReadNow(b.in)
		return b.in[:n], err
	}
	n, err := s.fd.Readable()
	switch {
	case err != nil:
		return nil, err
	case n == 0 && s.fd.HungUp():
		return nil, io.EOF
	case n == 0 && !ended:
		return nil, nil
	case n == 0:
		n = 1 // a FIFO that had no writer when it was opened tells of its end only so
	}
	n = o.journal.room(s.lane, min(n, readSize))
	if n <= 0 { // no memory to hold more of a line, so the line is cut here
		o.flush(s, b.out[:0])
		n = o.journal.room(s.lane, firstLane)
	}
	place := o.journal.intend(s.lane, n, o.look(s, n))
	got, err := s.fd.ReadNow(place)
	o.journal.took(s.lane, got)
	return place[:got], err
}

// look finds out what the few bytes are that will be read from a pipe, for the journal; nil for many, and for a terminal's.
func (o *output) look(s *stream, n int) []byte {
	if n >= canarySize || s.tty {
		return nil
	}
	return o.server.scratch.look(s.fd, n)
}

// scratch is a pipe to look into others with.
type scratch struct {
	mu   sync.Mutex
	r, w *linux.FD
}

// look returns the next n bytes of a pipe without taking them, nil if they cannot be had.
func (x *scratch) look(f *linux.FD, n int) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	copied, err := f.Tee(x.w, n)
	if err != nil || copied == 0 {
		return nil
	}
	seen := make([]byte, copied)
	if got, err := x.r.ReadNow(seen); err != nil || got != n {
		return nil
	}
	return seen
}

// log writes what was read. The caller holds o.writing.
func (o *output) log(s *stream, b *buffers, got []byte) {
	now := time.Now()
	o.last, o.lastN = now, len(got)
	s.followers.write(got)
	if !o.logged {
		return
	}
	s.splitter.Stamp(now)
	for rest := got; len(rest) > 0; {
		b.out, rest = s.splitter.Append(b.out[:0], rest, writeSize)
		if len(b.out) > 0 {
			o.write(s, b.out, len(rest)+s.splitter.Held(), now)
		}
	}
}

// write appends entries, after which all that was taken of a stream but the last bytes is in the log. The caller holds o.writing.
func (o *output) write(s *stream, entries []byte, left int, now time.Time) {
	if o.limit(entries, now) {
		o.writer.Write(entries, now)
	} else {
		o.writer.Drop(entries)
	}
	o.journal.logged(s.lane, left, o.writer.Size(), o.writer.Loss())
}

// flush logs the held piece of a line, into room given. The caller holds o.writing.
func (o *output) flush(s *stream, room []byte) {
	if s.splitter.Held() == 0 {
		return
	}
	now := time.Now()
	s.splitter.Stamp(now)
	o.write(s, s.splitter.Flush(room), 0, now)
}

// noteFile has a next keeper find the file that is written to. The caller holds o.writing.
func (o *output) noteFile(file *linux.FD) {
	device, inode, err := file.Identity()
	if err != nil {
		o.server.o.warn(err)
		return
	}
	o.journal.reopened(device, inode, o.writer.Size(), o.writer.Loss())
}

// restore begins to read a terminal whose master was awaited.
func (o *output) restore(master *linux.FD) {
	o.writing <- struct{}{}
	defer func() { <-o.writing }()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.streams {
		if s.tty && s.fd == nil && !s.gone {
			s.fd = master
			o.attend(s)
			return
		}
	}
	master.Close()
}

// remark writes the keeper's own words into a log. It is called before anything is read.
func (o *output) remark(text string) {
	s, now := o.streams[0], time.Now()
	o.write(s, logs.Remark(now, text), s.splitter.Held(), now)
}

// resume goes on where an earlier keeper was killed: what that took and did not log is logged. file is the log, nil without one; the same says that it is the
// one that was written to. It is called before anything is read.
func (o *output) resume(file *linux.FD, same bool) {
	j := o.journal
	j.settle()
	o.writer.SetLoss(j.note.loss)
	if file != nil {
		if over := o.writer.Size() - int64(j.note.size); same && over > 0 {
			o.server.o.warn(file.CutTail(over))
		}
		o.noteFile(file)
	}
	b := takeBuffers(o.streams[0].splitter.Room())
	defer giveBuffers(b)
	for _, s := range o.streams {
		if held := j.bytes(s.lane, j.note.held[s.lane]); len(held) > 0 {
			o.log(s, b, held)
		}
	}
}
