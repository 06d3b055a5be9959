package keeper

import (
	"io"
	"sync"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/logs"
)

const (
	// readSize is how much of one stream is read and logged at a time; other containers and the other stream come in between.
	readSize = 256 << 10
	// writeSize is when a batch of entries is written.
	writeSize = 384 << 10
	// pipeSize is what a pipe is enlarged to once it has been seen full at its first size.
	pipeSize, firstPipeSize = 256 << 10, 64 << 10

	// A producer that writes little and often would cost a wake-up a line: reading waits a while when the last read was small and
	// recent. The pipe holds what comes meanwhile; an end of the process ends the wait.
	smallRead = 4 << 10
	recent    = 3 * time.Millisecond
	gather    = time.Millisecond

	// drainLimit bounds how long an exit waits for the log: a disk that hangs must not keep an exit from being told.
	drainLimit = 2 * time.Second
	// drainBytes bounds what is read of one stream before the exit is told: what a pipe can hold. More is another process's, which has it
	// open still and may write for ever.
	drainBytes = 1 << 20
)

// A stream is watched in one of two ways. Neither wakes the keeper while a reader is at work or gathers.
const (
	// untilRead reports once that there is something; the reader asks again when it has read all.
	untilRead = linux.PollIn | linux.PollOnce
	// sinceEnd reports what comes after an end of file: a FIFO without writers stays readable, but the process may open it again.
	sinceEnd = linux.PollIn | linux.PollEdge
)

// output is what reads a process's streams into its log. The epoll loop only tells it what is readable; it reads in a goroutine of its own
// that ends when there is nothing more, so that a file that hangs stops this log alone.
type output struct {
	server *Server
	logged bool // a log is kept; otherwise what is read is discarded

	// writing is held (by a value in it) by who uses the writer, the splitters and the descriptors of streams: the reader for one batch at a time.
	writing chan struct{}
	writer  *logs.Writer
	journal *journal  // what a next keeper must know; nil if nothing is logged
	limits  *limits   // of the log; nil: none
	last    time.Time // of the last batch
	lastN   int       // its size

	hurry chan struct{} // closed when the process has ended: no gathering any more

	mu      sync.Mutex // guards what follows and the streams' marked fields; taken after writing
	streams []*stream
	running bool
	ended   bool // the process is
	closed  bool
}

// stream is one source being read.
type stream struct {
	out      *output
	fd       *linux.FD // nil while a terminal's master is awaited, see process.restore
	tty      bool
	lane     int // of the journal
	splitter *logs.Splitter
	token    uint64
	enlarged bool
	left     int           // of drainBytes
	name     string        // "stdout" or "stderr"
	drained  chan struct{} // closed when all that the process wrote has been read

	ready bool   // guarded by output.mu: there may be something to read
	gone  bool   // guarded by output.mu: closed
	watch uint32 // guarded by output.mu: untilRead or sinceEnd

	followers followers
}

func newOutput(s *Server, writer *logs.Writer, logged bool) *output {
	return &output{server: s, logged: logged, writer: writer, writing: make(chan struct{}, 1), hurry: make(chan struct{})}
}

// add takes a source to read, before follow.
func (o *output) add(s source, maxLine int) {
	lane := 0
	if s.stream == "stderr" {
		lane = 1
	}
	o.streams = append(o.streams, &stream{
		name: s.stream, followers: followers{server: o.server}, out: o, fd: s.fd, tty: s.tty, lane: lane, splitter: logs.NewSplitter(s.stream, maxLine, s.tty),
		left: drainBytes, drained: make(chan struct{}), watch: untilRead,
	})
}

// follow begins reading.
func (o *output) follow() {
	o.mu.Lock() // whoever is told at once waits until the stream knows its token
	defer o.mu.Unlock()
	for _, s := range o.streams {
		if s.fd != nil {
			o.attend(s)
		}
	}
}

// attend has a stream's news told. The caller holds o.mu.
func (o *output) attend(s *stream) {
	token, err := o.server.follow(s.fd, untilRead, s)
	s.token = token
	if err != nil {
		o.server.o.warn(err) // it is read once, at the process's end
	}
}

// news is told that there is something to read.
func (s *stream) news() {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	s.out.kick(s)
}

// kick has the reader look at a stream. The caller holds o.mu.
func (o *output) kick(s *stream) {
	if s.gone {
		return
	}
	s.ready = true
	if !o.running {
		o.running = true
		o.server.work.Go(o.read)
	}
}

// buffers are a reader's while it runs.
type buffers struct{ in, out []byte }

// spare keeps the buffers of a few readers: most of the time none runs.
var spare = make(chan *buffers, 2)

func takeBuffers(room int) *buffers {
	select {
	case b := <-spare:
		if cap(b.out) >= writeSize+room {
			return b
		}
	default:
	}
	return &buffers{out: make([]byte, 0, writeSize+room)}
}

func giveBuffers(b *buffers) {
	select {
	case spare <- b:
	default:
	}
}

// read reads what is ready until nothing is.
func (o *output) read() {
	b := takeBuffers(o.streams[0].splitter.Room())
	defer giveBuffers(b)
	for {
		o.gather()
		any := false
		for _, s := range o.streams {
			any = o.turn(s, b) || any
		}
		if any {
			continue
		}
		o.mu.Lock()
		for _, s := range o.streams {
			any = any || s.ready // became so meanwhile
		}
		if !any {
			o.running = false
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
	}
}

// gather waits a little for more if the last batch was small and has just been.
func (o *output) gather() {
	o.writing <- struct{}{}
	wait := o.lastN < smallRead && time.Since(o.last) < recent
	<-o.writing
	if !wait {
		return
	}
	t := time.NewTimer(gather)
	defer t.Stop()
	select {
	case <-t.C:
	case <-o.hurry:
	}
}

// turn reads a stream once if it is ready, and reports whether there was anything.
func (o *output) turn(s *stream, b *buffers) bool {
	o.mu.Lock()
	if !s.ready || s.gone {
		s.ready = false
		o.mu.Unlock()
		return false
	}
	s.ready = false
	// Taken before reading: only a read that begins after the process's end proves that nothing of it is left.
	ended := o.ended
	o.mu.Unlock()

	o.server.logging.enter()
	defer o.server.logging.leave()
	o.writing <- struct{}{}
	defer func() { <-o.writing }()
	got, err := o.take(s, b, ended)
	n := len(got)
	if n > 0 {
		o.log(s, b, got)
	}
	s.enlarge(n)
	if err != nil {
		o.end(s, b, err)
	} else if n == 0 {
		s.splitter.Idle()
		o.journal.idle(s.lane)
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	if ended {
		s.left -= n
		if n == 0 || s.left <= 0 {
			s.drain()
		}
	}
	switch {
	case ended && err != nil:
		o.drop(s)
	case err != nil:
		o.await(s, sinceEnd)
	case n >= smallRead || n > 0 && (ended || s.token == 0):
		s.ready = true
	default: // a short read has emptied it; if not, that is told at once
		s.splitter.Idle()
		o.await(s, untilRead)
	}
	return n > 0
}

// await has a stream watched again. The caller holds o.mu.
func (o *output) await(s *stream, watch uint32) {
	if s.token == 0 || watch == sinceEnd && s.watch == sinceEnd {
		return
	}
	s.watch = watch
	o.server.o.warn(o.server.poller.Rearm(s.fd, watch, s.token))
}

// end logs what has no newline and never will have one: every writer is gone. The caller holds o.writing.
func (o *output) end(s *stream, b *buffers, err error) {
	if err != io.EOF {
		o.server.o.warn(err)
	}
	o.flush(s, b.out[:0])
	s.splitter.Idle()
}

// enlarge gives a pipe more room once it has been full: then fewer and larger batches keep up with the producer. The caller holds o.writing.
func (s *stream) enlarge(n int) {
	if n >= firstPipeSize && !s.enlarged {
		s.enlarged = true
		s.fd.SetPipeSize(pipeSize) // a pty has none, a user over his limit gets none: it goes on as before
	}
}

// drain says that a stream has been read to where the process left it. The caller holds o.mu.
func (s *stream) drain() {
	select {
	case <-s.drained:
	default:
		close(s.drained)
		s.followers.end()
	}
}

// drop closes a stream that nobody can write any more, and the log after the last. The caller holds o.writing and o.mu.
func (o *output) drop(s *stream) {
	if s.gone {
		return
	}
	s.gone = true
	s.drain()
	if s.fd != nil {
		o.server.unfollow(s.fd, s.token)
	}
	s.fd.Close()
	s.fd = nil
	for _, other := range o.streams {
		if !other.gone {
			return
		}
	}
	o.writer.Mark(time.Now())
	o.writer.Close()
	o.closed = true
}

// drain reads what an ended process has left in its pipes and returns how much of its output is not in the log. What others still hold open is
// read on afterwards.
func (o *output) drain() (dropped uint64) {
	o.mu.Lock()
	o.ended = true
	for _, s := range o.streams {
		o.kick(s)
	}
	o.mu.Unlock()
	close(o.hurry)
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	for _, s := range o.streams {
		select {
		case <-s.drained:
		case <-limit.C:
			return o.writer.Dropped()
		}
	}
	return o.writer.Dropped()
}

// reopen goes on in a new file, base in dir, which it takes. When it returns without error, everything read from then on goes there.
func (o *output) reopen(file *linux.FD, dir, base string) error {
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	select {
	case o.writing <- struct{}{}:
	case <-limit.C:
		file.Close()
		return errs.New(errs.Unavailable, "reopen log %s: its disk has not answered for %v", file.Name(), drainLimit)
	}
	defer func() { <-o.writing }()
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		file.Close()
		return errs.New(errs.FailedPrecondition, "reopen log %s: the process has ended and its log is complete", file.Name())
	}
	o.writer.Reopen(file)
	if o.limits != nil {
		o.limits.Dir, o.limits.Base = dir, base
	}
	o.noteFile(file)
	return nil
}

// close stops reading, whoever may still write. It is called when the process is forgotten, or was never started. A reader that hangs in a write
// closes its file when it returns.
func (o *output) close() {
	o.server.work.Go(func() {
		o.server.logging.enter()
		defer o.server.logging.leave()
		o.writing <- struct{}{}
		defer func() { <-o.writing }()
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, s := range o.streams {
			if !s.gone {
				o.flush(s, nil)
				o.drop(s)
			}
		}
		o.journal.close()
		o.journal = nil
	})
}
