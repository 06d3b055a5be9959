package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// quietLimit is how long an upgrade waits for what is under way. A launch that hangs must not keep everybody waiting.
const quietLimit = time.Second

// upgrade executes another binary in this process's place: the PID, children, descriptors, FIFOs and connections stay. It is a death and a take-over
// ([process.takeOver]) at a moment when nothing is under way, in which nothing is let go of. It returns only if it did not come to that.
func (c *session) upgrade(m wire.Message) {
	linux.CloseAll(m.FDs...)
	r, err := wire.DecodeRequest(m.Body)
	if err == nil {
		err = c.server.become(r.Path, c, m.Request)
	}
	c.reply(m.Request, &wire.Reply{Err: fmt.Errorf("upgrade keeper: %w", err)})
}

// become replaces the program. One upgrade is tried at a time.
func (s *Server) become(path string, asker *session, request uint64) error {
	s.upgrading.Lock()
	defer s.upgrading.Unlock()
	if _, err := os.Stat(path); err != nil {
		return errs.As(errs.InvalidArgument, err)
	}
	defer s.busy.open()
	if !s.busy.close(quietLimit) {
		return errs.New(errs.Unavailable, "something under way does not end, try again")
	}
	defer s.logging.open()
	if !s.logging.close(quietLimit) { // execve would wait for the thread that a dead disk holds, and all with it
		return errs.New(errs.Unavailable, "a log's disk does not answer, try again")
	}
	s.flushSessions()
	h := handover{server: s}
	defer h.takeBack()
	memory, err := h.write(asker, request)
	if err != nil {
		return err
	}
	args := []string{path, "--socket", s.o.Socket, "--state", s.o.State, "--root", s.o.Root, "--inherit", strconv.Itoa(memory)}
	return &os.PathError{Op: "execute", Path: path, Err: syscall.Exec(path, args, os.Environ())}
}

// flushSessions waits until what is queued is sent. A daemon that does not read is given up; the next one is told again.
func (s *Server) flushSessions() {
	const step = time.Millisecond
	for until := time.Now().Add(quietLimit); ; time.Sleep(step) { // bounded, and nothing tells that all queues are empty
		s.mu.Lock()
		waiting := 0
		for c := range s.sessions {
			if !c.sent() {
				waiting++
				if time.Now().After(until) {
					c.conn.Close()
				}
			}
		}
		s.mu.Unlock()
		if waiting == 0 || time.Now().After(until.Add(quietLimit)) {
			return
		}
	}
}

// sent reports whether nothing waits to be sent, or never will be.
func (c *session) sent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || len(c.queue) == 0 && !c.sending
}

// handover collects the descriptors that stay open.
type handover struct {
	server *Server
	wire   wire.Handover
	handed []func() // undo
	memory *linux.FD
	err    error
}

type handable interface{ Hand(keep bool) (int, error) }

// hand keeps one open.
func (h *handover) hand(f handable) int {
	if h.err != nil {
		return 0
	}
	n, err := f.Hand(true)
	if err != nil {
		h.err = err
		return 0
	}
	h.handed = append(h.handed, func() { f.Hand(false) })
	return n
}

// takeBack is for an execve that failed.
func (h *handover) takeBack() {
	for _, undo := range h.handed {
		undo()
	}
	h.memory.Close()
}

// write collects everything and returns the number of the memory that says it.
func (h *handover) write(asker *session, request uint64) (memory int, err error) {
	s := h.server
	h.wire.Listener, h.wire.Lock = h.hand(s.listener), h.hand(s.lock)
	s.mu.Lock()
	for c := range s.sessions {
		if c.isClosed() {
			continue
		}
		session := wire.HandedSession{FD: h.hand(c.conn), Subscribed: c.subscribed}
		if c == asker {
			session.Answer = request
		}
		h.wire.Sessions = append(h.wire.Sessions, session)
	}
	var processes []*process
	for _, p := range s.processes {
		if p.told != nil {
			h.wire.Exits = append(h.wire.Exits, *p.told)
		}
		processes = append(processes, p)
	}
	s.mu.Unlock()
	for _, p := range processes {
		h.wire.Processes = append(h.wire.Processes, wire.HandedProcess{ID: p.id, FDs: p.handFDs(h)})
	}
	if h.err != nil {
		return 0, h.err
	}
	if h.memory, h.err = linux.SealedMemory("fermata-handover", h.wire.Encode()); h.err != nil {
		return 0, h.err
	}
	memory = h.hand(h.memory)
	return memory, h.err
}

func (c *session) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Names of a process's descriptors in a handover; a namespace's, a stream's and a follower's are followed by what it is of.
const (
	handedPidfd     = "pidfd"
	handedStdin     = "stdin"
	handedConsole   = "console"
	handedNamespace = "namespace "
	handedStream    = "stream "
	handedFollower  = "follower "
)

// handFDs keeps a process's descriptors open. The log and the OOM counter are opened again, by their names in the record.
func (p *process) handFDs(h *handover) (fds []wire.HandedFD) {
	p.mu.Lock()
	defer p.mu.Unlock()
	add := func(name string, f *linux.FD) {
		if f != nil && f.Int() >= 0 {
			fds = append(fds, wire.HandedFD{Name: name, FD: h.hand(f)})
		}
	}
	add(handedPidfd, p.pidfd)
	add(handedStdin, p.stdin)
	add(handedConsole, p.console)
	for _, n := range p.namespaces {
		add(handedNamespace+n.kind, n.fd)
	}
	if p.output == nil {
		return fds
	}
	p.output.mu.Lock()
	defer p.output.mu.Unlock()
	for _, s := range p.output.streams {
		add(handedStream+s.name, s.fd)
		s.followers.mu.Lock()
		for _, f := range s.followers.pipes {
			add(handedFollower+s.name, f.pipe)
		}
		s.followers.mu.Unlock()
	}
	return fds
}

// inherited are descriptors that an earlier program of this process handed on, by process; whoever takes one removes it.
type inherited struct {
	wire.Handover
	of map[string]map[string][]*linux.FD
}

// inherit reads a handover. Descriptors that nobody takes are closed by [inherited.close].
func inherit(memory int) (*inherited, error) {
	f, err := linux.Adopt(memory, "handover")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err == nil && size > wire.MaxHandover {
		err = fmt.Errorf("handover of %d bytes, at most %d are read", size, wire.MaxHandover)
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := f.Pread(b, 0); err != nil {
		return nil, err
	}
	h, err := wire.DecodeHandover(b)
	if err != nil {
		return nil, err
	}
	i := &inherited{Handover: *h, of: map[string]map[string][]*linux.FD{}}
	var failed []error
	for _, p := range h.Processes {
		i.of[p.ID] = map[string][]*linux.FD{}
		for _, fd := range p.FDs {
			got, err := linux.Adopt(fd.FD, fd.Name+" of "+p.ID)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			i.of[p.ID][fd.Name] = append(i.of[p.ID][fd.Name], got)
		}
	}
	return i, errors.Join(failed...)
}

// take returns a process's descriptor of a name, nil without one.
func (i *inherited) take(id, name string) *linux.FD {
	if i == nil || len(i.of[id][name]) == 0 {
		return nil
	}
	all := i.of[id][name]
	i.of[id][name] = all[1:]
	return all[0]
}

// close closes what nobody took.
func (i *inherited) close() {
	if i == nil {
		return
	}
	for _, fds := range i.of {
		for _, all := range fds {
			linux.CloseAll(all...)
		}
	}
}

// resumeSessions goes on with the connections, and answers who asked for the upgrade.
func (s *Server) resumeSessions(i *inherited) {
	for _, handed := range i.Sessions {
		packets, err := linux.AdoptPackets(handed.FD, "connection at "+s.o.Socket)
		if err != nil {
			s.o.warn(err)
			continue
		}
		c := s.open(packets)
		if c == nil {
			continue
		}
		s.mu.Lock()
		c.subscribed = handed.Subscribed
		s.mu.Unlock()
		if handed.Answer != 0 {
			c.reply(handed.Answer, nil)
		}
	}
}

// toldBefore takes in the exits that were told and not forgotten: those of execs are in no record.
func (s *Server) toldBefore(i *inherited) {
	for k := range i.Exits {
		e := &i.Exits[k]
		if wire.CheckID(e.ID) == nil && s.processes[e.ID] == nil {
			s.processes[e.ID] = &process{server: s, id: e.ID, kind: e.Kind, pid: e.PID, started: e.Started, launched: true, told: e}
		}
	}
}

// executable is the path of this program's file, "" if it cannot be had; of one that was removed, with " (deleted)" after it, which is no file's.
func executable() string {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(path)
}
