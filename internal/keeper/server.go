package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

const (
	// descriptorsEach is the most that is held for one process: pidfd, OOM counter, log, stdout, stderr, stdin, console, and for a
	// pause five namespaces instead of the last five.
	descriptorsEach = 12
	// descriptorsSpare is kept for everything else: sockets, epoll, launches under way.
	descriptorsSpare = 384

	// lastWords is how long an ending keeper waits for daemons to take what is queued for them.
	lastWords = time.Second
	// acceptAgain is how long connections wait when there are no descriptors for them.
	acceptAgain = 100 * time.Millisecond
)

// Options say where a keeper keeps.
type Options struct {
	// Socket is where it listens (0600).
	Socket string
	// State is a directory for FIFOs and exit records, gone at reboot; a second keeper on it is refused.
	State string
	// Root is a directory for the exits that nobody was there to hear.
	Root string
	// Warn is told what has no other way out; nil drops it.
	Warn func(error)
	// MaxDescriptors bounds what is held; 0 for the process's limit (RLIMIT_NOFILE).
	MaxDescriptors int
	// Inherit is the descriptor of what the program before handed on, when a keeper has executed another one in its place; 0 otherwise.
	Inherit int
}

func (o *Options) warn(err error) {
	if err != nil && o.Warn != nil {
		o.Warn(err)
	}
}

// Server is a keeper.
type Server struct {
	o         Options
	lock      *linux.FD // flock on the state directory
	null      *linux.FD
	listener  *linux.PacketListener
	poller    *linux.Poller
	scratch   scratch
	pins      bool         // this kernel can pin
	followers atomic.Int32 // pipes that output is copied to

	busy      *gate          // held by requests, launches and exits: what an upgrade waits for
	logging   *gate          // held by who uses a log, for one batch at a time
	upgrading sync.Mutex     // held by an upgrade
	work      sync.WaitGroup // the epoll loop, sessions, launches and exits

	mu        sync.Mutex
	processes map[string]*process // by ID, until forgotten
	sessions  map[*session]bool
	watched   map[uint64]watcher
	nextToken uint64
	ended     bool
}

// watcher is told in the epoll loop that one of its descriptors has news; it must not wait for anything.
type watcher interface{ news() }

// New makes a keeper that listens but does not answer yet.
func New(o Options) (_ *Server, err error) {
	// What this process ignores every container would ignore.
	if err := linux.DefaultIgnoredSignals(); err != nil {
		return nil, err
	}
	if o.MaxDescriptors == 0 {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return nil, fmt.Errorf("read the limit of descriptors: %w", err)
		}
		o.MaxDescriptors = int(min(limit.Cur, 1<<30))
	}
	s := &Server{
		o: o, processes: map[string]*process{}, sessions: map[*session]bool{}, watched: map[uint64]watcher{}, busy: newGate(), logging: newGate(),
	}
	defer func() {
		if err != nil {
			s.free()
		}
	}()
	for _, dir := range []string{o.State, o.Root, s.fifoDir(), s.exitDir(), s.lateExitDir(), s.heldDir(), s.pinDir()} {
		if err := durable.MakeDir(dir); err != nil {
			return nil, err
		}
	}
	var before *inherited
	if o.Inherit > 0 {
		if before, err = inherit(o.Inherit); err != nil {
			return nil, fmt.Errorf("go on after an upgrade: %w", err)
		}
		defer before.close()
	}
	if s.lock, err = s.openLock(before); err != nil {
		return nil, fmt.Errorf("be the only keeper: %w", err)
	}
	if err := s.readExits(); err != nil {
		return nil, err
	}
	if s.null, err = linux.Open(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if s.poller, err = linux.NewPoller(); err != nil {
		return nil, err
	}
	if s.scratch.r, s.scratch.w, err = linux.ScratchPipe(); err != nil {
		return nil, err
	}
	if err := s.openPins(); err != nil {
		return nil, err
	}
	if before != nil {
		s.toldBefore(before)
	}
	if err := s.readHeld(before); err != nil {
		return nil, err
	}
	if before != nil {
		if s.listener, err = linux.AdoptListener(before.Listener, o.Socket); err != nil {
			return nil, err
		}
		s.resumeSessions(before)
		return s, nil
	}
	// The lock is ours, so whoever bound this path is gone.
	if err := os.Remove(o.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier keeper: %w", err)
	}
	if s.listener, err = linux.ListenPackets(o.Socket); err != nil {
		return nil, err
	}
	return s, nil
}

// openLock takes the state directory's lock, or has it from before an upgrade.
func (s *Server) openLock(before *inherited) (*linux.FD, error) {
	if before != nil {
		return linux.Adopt(before.Lock, "lock")
	}
	return lockState(s.o)
}

// lockState takes the state directory's lock. Whoever has it and answers is the keeper; whoever has it and does not is about to, or about to
// be gone: neither is an event that could be waited on, and both are a matter of milliseconds.
func lockState(o Options) (*linux.FD, error) {
	const tries, pause = 500, 10 * time.Millisecond
	for i := 0; ; i++ {
		lock, err := linux.LockFile(filepath.Join(o.State, "keeper.lock"))
		if !errors.Is(err, syscall.EWOULDBLOCK) || i == tries {
			return lock, err
		}
		if c, e := linux.DialPackets(o.Socket); e == nil {
			c.Close()
			return nil, err
		}
		time.Sleep(pause)
	}
}

func (s *Server) fifoDir() string     { return filepath.Join(s.o.State, wire.FIFODir) }
func (s *Server) exitDir() string     { return filepath.Join(s.o.State, "exits") }
func (s *Server) lateExitDir() string { return filepath.Join(s.o.Root, "exits") }

func fileName(id string) string { return wire.FileName(id) }

// Serve answers until [Server.Shutdown], then frees everything.
func (s *Server) Serve() error {
	s.work.Go(s.watch)
	var err error
	for {
		e := s.accept()
		if e == nil {
			continue
		}
		if errors.Is(e, os.ErrClosed) {
			break
		}
		s.o.warn(e)
		if !errors.Is(e, syscall.EMFILE) && !errors.Is(e, syscall.ENFILE) && !errors.Is(e, syscall.ENOMEM) && !errors.Is(e, syscall.ECONNABORTED) {
			err = e
			break
		}
		time.Sleep(acceptAgain) // nothing tells when there will be descriptors or memory again
	}
	s.mu.Lock()
	s.ended = true
	for c := range s.sessions {
		c.close()
		time.AfterFunc(lastWords, func() { c.conn.Close() }) // it may wait for a daemon that does not read
	}
	s.mu.Unlock()
	err = errors.Join(err, s.poller.Wake())
	s.work.Wait()
	os.Remove(s.o.Socket)
	s.free()
	return err
}

// accept takes one connection.
func (s *Server) accept() error {
	if err := s.listener.Wait(); err != nil {
		return err
	}
	s.busy.enter()
	defer s.busy.leave()
	packets, err := s.listener.Accept()
	if err == nil {
		s.open(packets)
	}
	return err
}

// Shutdown ends the keeper if it holds nothing: no process that is not forgotten. Serve then returns.
func (s *Server) Shutdown() error {
	if err := s.refuseWork(); err != nil {
		return err
	}
	return s.listener.Close()
}

// refuseWork refuses launches from now on, if nothing is held.
func (s *Server) refuseWork() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.processes); n > 0 {
		return errs.New(errs.FailedPrecondition, "shut down keeper: it holds %d processes or exits", n)
	}
	s.ended = true
	return nil
}

func (s *Server) free() {
	if s.listener != nil {
		s.listener.Close()
	}
	if s.poller != nil {
		s.poller.Close()
	}
	linux.CloseAll(s.scratch.r, s.scratch.w, s.null)
	if s.lock != nil && s.ended { // nothing is held
		s.o.warn(linux.UnmountPins(s.pinDir()))
	}
	s.lock.Close()
}

// watch is the epoll loop.
func (s *Server) watch() {
	var events []linux.Event
	for {
		var err error
		if events, err = s.poller.Wait(events[:0]); err != nil {
			s.o.warn(err) // EBADF and the like: cannot happen
			return
		}
		s.mu.Lock()
		ended := s.ended
		heard := make([]watcher, 0, len(events))
		for _, e := range events {
			if w := s.watched[e.Token]; w != nil { // nil: unwatched meanwhile
				heard = append(heard, w)
			}
		}
		s.mu.Unlock()
		if ended {
			return
		}
		for _, w := range heard {
			w.news()
		}
	}
}

// follow has w told of f's news until unfollow. Events are linux.PollIn and a way to be told.
func (s *Server) follow(f *linux.FD, events uint32, w watcher) (token uint64, err error) {
	s.mu.Lock()
	s.nextToken++
	token = s.nextToken
	s.watched[token] = w
	s.mu.Unlock()
	if err := s.poller.Add(f, events, token); err != nil {
		s.unfollow(nil, token)
		return 0, err
	}
	return token, nil
}

// unfollow ends it; f must still be open, nil if it was not added.
func (s *Server) unfollow(f *linux.FD, token uint64) {
	if f != nil {
		s.o.warn(s.poller.Remove(f))
	}
	s.mu.Lock()
	delete(s.watched, token)
	s.mu.Unlock()
}

// reserve takes an ID for a launch.
func (s *Server) reserve(p *process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return errs.New(errs.Unavailable, "launch %s: the keeper is ending", p.id)
	case s.processes[p.id] != nil:
		return errs.New(errs.AlreadyExists, "launch %s: the keeper has one that is not forgotten", p.id)
	case (len(s.processes)+1)*descriptorsEach+descriptorsSpare > s.o.MaxDescriptors:
		return errs.New(errs.ResourceExhausted, "launch %s: the keeper's limit of %d descriptors (RLIMIT_NOFILE) allows %d processes",
			p.id, s.o.MaxDescriptors, max(0, s.o.MaxDescriptors-descriptorsSpare)/descriptorsEach)
	}
	s.processes[p.id] = p
	return nil
}

func (s *Server) release(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.processes, p.id)
}

// find returns a process that was launched, or is being.
func (s *Server) find(op, id string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.processes[id]; p != nil {
		return p, nil
	}
	return nil, errs.New(errs.NotFound, "%s %s: the keeper has no such process", op, id)
}

// page lists launched processes whose IDs come after a given one, in order, as many as fit into a message.
func (s *Server) page(after string) *wire.Reply {
	s.mu.Lock()
	ids := make([]string, 0, len(s.processes))
	for id := range s.processes {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var reply wire.Reply
	const most = 256 // of at most some 700 bytes each: below wire.MaxMessage
	var listed []*process
	for _, id := range ids {
		if len(listed) == most {
			reply.More = true
			break
		}
		listed = append(listed, s.processes[id])
	}
	s.mu.Unlock()
	until, cancel := context.WithTimeout(context.Background(), launchWait)
	defer cancel()
	for _, p := range listed {
		if w := p.describe(until); w != nil {
			reply.Processes = append(reply.Processes, *w)
		}
	}
	if reply.More && len(reply.Processes) == 0 {
		return s.page(listed[len(listed)-1].id) // a whole page of launches under way
	}
	return &reply
}
