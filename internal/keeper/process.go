package keeper

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
	"fermata/internal/logs"
)

// process is one that was launched, or is being, until it is forgotten:
//
//	reserved ──► launched ──► ended (reaped) ──► told ──► forgotten
//	    └──► gone (the launch failed)
type process struct {
	server *Server
	id     string
	kind   wire.Kind
	// decided is closed when the launch has succeeded or failed; nil for what was never launched by this keeper.
	decided chan struct{}

	told *wire.Exit // guarded by Server.mu; nil until the exit is known to all

	mu       sync.Mutex // guards what follows
	held     held       // as recorded
	lost     string     // why its exit will never be known; "" as long as it may
	launched bool       // until then only pid and pidfd are looked at by others than the launch
	givenUp  bool       // killed while it was being launched
	pid      int
	pidfd    *linux.FD // nil before there is a process and after it is reaped

	inode      uint64 // of the pidfd
	started    time.Time
	token      uint64 // of the watch on pidfd
	oom        *linux.FD
	oomBefore  uint64
	stdin      *linux.FD // the FIFO's writing end; nil if there is none or it was closed
	console    *linux.FD // the pty's master, which output reads too (a duplicate)
	namespaces []namespace
	output     *output  // nil if nothing is read
	fifos      []string // paths
}

type namespace struct {
	kind string
	fd   *linux.FD
}

// namespaceKinds are what the keeper holds of a pause, by their names in /proc/PID/ns.
var namespaceKinds = []string{"net", "ipc", "uts", "pid", "mnt"}

// launchWait is how long a list waits for a launch under way. A daemon that was killed in the middle of a launch is followed by one that lists: it is to
// find the process, or none, and nothing in between. A launch that hangs for longer is left out.
const launchWait = 2 * time.Second

// describe returns what is listed, nil for a process whose launch failed or hangs.
func (p *process) describe(until context.Context) *wire.Process {
	if p.decided != nil {
		select {
		case <-p.decided:
		case <-until.Done():
		}
	}
	p.server.mu.Lock()
	told := p.told
	p.server.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.launched {
		return nil
	}
	return &wire.Process{ID: p.id, Kind: p.kind, PID: p.pid, PidfdInode: p.inode, Started: p.started, Exit: told}
}

// signal also works while the process is being launched: that is how a launch that hangs is given up.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return errs.New(errs.NotFound, "signal %s: it has ended, or not begun", p.id)
	}
	var err error
	if sig == syscall.SIGKILL && !p.launched {
		// The program may have cloned what is to be the process and not told yet: that one, which nobody knows, goes with its group. Left
		// alive it would keep the launch waiting for its report; dead it would stay a zombie (launch reaps it).
		p.givenUp = true
		err = linux.KillGroup(p.pid)
	} else {
		err = p.pidfd.Signal(sig)
	}
	if linux.IsGone(err) {
		return errs.New(errs.NotFound, "signal %s: it has ended", p.id)
	}
	if errors.Is(err, syscall.EINVAL) {
		return errs.As(errs.InvalidArgument, err)
	}
	return err
}

// hand returns a duplicate of one of the process's descriptors.
func (p *process) hand(fd **linux.FD, what string) (*wire.Reply, []*linux.FD, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.launched || *fd == nil {
		return nil, nil, errs.New(errs.FailedPrecondition, "hand out %s of %s: it has none, or no more", what, p.id)
	}
	dup, err := (*fd).Dup()
	if err != nil {
		return nil, nil, err
	}
	return nil, []*linux.FD{dup}, nil
}

func (p *process) handNamespaces() (*wire.Reply, []*linux.FD, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.namespaces) == 0 {
		return nil, nil, errs.New(errs.FailedPrecondition, "hand out namespaces of %s: the keeper holds none", p.id)
	}
	var reply wire.Reply
	var fds []*linux.FD
	for _, n := range p.namespaces {
		dup, err := n.fd.Dup()
		if err != nil {
			linux.CloseAll(fds...)
			return nil, nil, err
		}
		reply.Names, fds = append(reply.Names, n.kind), append(fds, dup)
	}
	return &reply, fds, nil
}

// closeStdin lets the process read to the end of its stdin. Closing it twice is fine.
func (p *process) closeStdin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.launched {
		return errs.New(errs.FailedPrecondition, "close stdin of %s: it is being launched", p.id)
	}
	err := p.stdin.Close()
	if p.stdin = nil; p.held.Stdin {
		p.held.Stdin = false
		err = errors.Join(err, p.keep())
	}
	return err
}

func (p *process) reopen(dirs []*linux.FD, base string) error {
	if len(dirs) != 1 {
		return errs.New(errs.InvalidArgument, "reopen log of %s: %d descriptors came, want its directory's", p.id, len(dirs))
	}
	if err := wire.CheckBase(base); err != nil {
		return err
	}
	p.mu.Lock()
	var out *output
	if p.launched {
		out = p.output
	}
	p.mu.Unlock()
	if out == nil || !out.logged {
		return errs.New(errs.FailedPrecondition, "reopen log of %s: it has none, or has ended", p.id)
	}
	path, err := dirs[0].Location()
	if err != nil {
		return err
	}
	file, err := logs.OpenFile(dirs[0], base)
	if err != nil {
		return err
	}
	if err := out.reopen(file, path, base); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if log := p.held.Log; log == nil || log.Dir == path && log.Base == base || p.pidfd == nil {
		return nil
	}
	next := *p.held.Log
	next.Dir, next.Base = path, base
	p.held.Log = &next
	return p.keep()
}

// restore takes the master of the terminal that an earlier keeper held.
func (p *process) restore(masters []*linux.FD) error {
	if len(masters) != 1 {
		return errs.New(errs.InvalidArgument, "restore console of %s: %d descriptors came, want one", p.id, len(masters))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.launched || p.pidfd == nil || p.output == nil || !p.held.Console:
		return errs.New(errs.FailedPrecondition, "restore console of %s: it has ended, or has no terminal", p.id)
	case p.console != nil:
		return nil
	}
	master, err := masters[0].Dup()
	if err != nil {
		return err
	}
	reader, err := masters[0].Dup()
	if err != nil {
		master.Close()
		return err
	}
	p.console = master
	p.output.restore(reader)
	return nil
}

// holdNamespaces opens a pause's namespaces, so that they outlive it. It is not reaped yet, so the PID is its own.
func (p *process) holdNamespaces() error {
	var held []namespace
	for _, kind := range namespaceKinds {
		fd, err := linux.NamespaceOf(p.pid, kind)
		if err != nil {
			closeNamespaces(held)
			return err
		}
		held = append(held, namespace{kind, fd})
	}
	closeNamespaces(p.namespaces) // those of the pause before, all but one of which are the same
	p.namespaces = held
	return nil
}

func closeNamespaces(held []namespace) {
	for _, n := range held {
		n.fd.Close()
	}
}

// news is told once: the process has ended.
func (p *process) news() { p.server.work.Go(p.end) }

// end reaps the process, drains its output, records the exit and tells it.
func (p *process) end() {
	p.server.busy.enter()
	defer p.server.busy.leave()
	p.mu.Lock()
	pidfd := p.pidfd
	p.mu.Unlock()
	// Outside the lock: a process that is traced is readable but not to be had until its tracer lets go.
	status, unknown := p.reap(pidfd)
	finished := time.Now()
	p.mu.Lock()
	if p.pidfd != nil {
		p.server.unfollow(p.pidfd, p.token)
	}
	p.pidfd.Close()
	p.pidfd = nil
	p.stdin.Close() // nobody reads it any more
	p.stdin = nil
	oomKilled := p.oom != nil && oomKills(p.oom) > p.oomBefore && status != linux.Exit{}
	p.oom.Close()
	p.oom = nil
	exit := &wire.Exit{
		ID: p.id, Kind: p.kind, PID: p.pid, Code: status.Code, Signal: status.Signal, OOMKilled: oomKilled,
		Started: p.started, Finished: finished, Unknown: unknown != "", Note: unknown,
	}
	if p.held.Console && p.console == nil && unknown == "" {
		exit.Note = "its terminal had hung up: keeper and daemon were both killed"
	}
	out := p.output
	p.mu.Unlock()
	if out != nil {
		exit.LogDropped = out.drain()
	}
	if p.kind != wire.Exec {
		p.server.record(p.server.exitDir(), exit, durable.Options{})
	}
	if heard := p.server.tell(p, exit); !heard {
		p.recordLate(exit)
	}
}

// unknownCode is the exit code of a process of which nobody can say how it ended.
const unknownCode = 255

// reapLimit is how long the parent of a process that this keeper did not launch may take to reap it.
const reapLimit = 5 * time.Second

// reap waits for the process's end and says how it ended, or why that is unknown. What an earlier keeper launched is no child of this one: init, or a sub-reaper
// between, reaps it. Until then /proc says how it ended, and after that the kernel keeps it for a pidfd (Linux 6.15).
func (p *process) reap(pidfd *linux.FD) (status linux.Exit, unknown string) {
	if pidfd == nil {
		return linux.Exit{Code: unknownCode}, p.lost
	}
	status, err := pidfd.WaitPidfd()
	if errors.Is(err, syscall.ECHILD) {
		if status, err = exitOfOther(pidfd, p.server.pins); err == nil {
			return status, ""
		}
	}
	if err != nil {
		return linux.Exit{Code: unknownCode}, "how it ended is unknown: the keeper that launched it was killed, and this one learnt only that it ended: " + err.Error()
	}
	return status, ""
}

// exitOfOther is how somebody else's child ended, which it did. kept says that this kernel keeps it after reaping.
func exitOfOther(pidfd *linux.FD, kept bool) (linux.Exit, error) {
	status, known, err := pidfd.ZombieExit()
	if known || err != nil {
		return status, err
	}
	if !kept {
		return status, errors.New("it was reaped by another process, and this kernel does not keep how it ended (Linux 6.15 does)")
	}
	if err := pidfd.WaitReaped(reapLimit); err != nil {
		return status, err
	}
	if status, known, err = pidfd.PidfdExit(); err == nil && !known {
		err = errors.New("the kernel did not keep it")
	}
	return status, err
}

// recordLate keeps an exit that nobody heard where it outlives a reboot.
func (p *process) recordLate(exit *wire.Exit) {
	if p.kind == wire.Exec {
		return
	}
	p.server.record(p.server.lateExitDir(), exit, durable.Options{Sync: true})
	// A daemon may have come, heard and forgotten while the disk was busy.
	if now, err := p.server.find("look for", p.id); err != nil || now != p {
		p.server.o.warn(p.server.unrecord(p.id))
	}
}

// unheard takes back an exit that was told to a daemon that had just died.
func (s *Server) unheard(body []byte) {
	exit, err := wire.DecodeExit(body)
	if err != nil {
		s.o.warn(err)
		return
	}
	if p, err := s.find("look for", exit.ID); err == nil {
		p.recordLate(exit)
	}
}

// forget drops an ended process and all that is held for it.
func (s *Server) forget(id string) error {
	p, err := s.find("forget", id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	told := p.told != nil
	if told {
		delete(s.processes, id)
	}
	s.mu.Unlock()
	if !told {
		return errs.New(errs.FailedPrecondition, "forget %s: it has not ended", id)
	}
	if err := s.unrecord(id); err != nil {
		s.mu.Lock()
		s.processes[id] = p
		s.mu.Unlock()
		return err
	}
	p.free()
	return nil
}

// free closes and removes all that is held for a process which is not there (any more).
func (p *process) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.output != nil {
		p.output.close()
		p.output = nil
	}
	linux.CloseAll(p.stdin, p.console, p.oom, p.pidfd)
	p.stdin, p.console, p.oom, p.pidfd = nil, nil, nil, nil
	closeNamespaces(p.namespaces)
	p.namespaces = nil
	for _, path := range p.fifos {
		os.Remove(path)
	}
	p.fifos = nil
	p.unkeep()
}

// fifo makes the process's FIFO for a stream, replacing one that an earlier keeper left.
func (p *process) fifo(stream string, l *wire.Launch) (path string, err error) {
	path = p.fifoPath(stream)
	for range 2 {
		if err = linux.Mkfifo(path, l.StdioUID, l.StdioGID); !isExist(err) {
			break
		}
		os.Remove(path)
	}
	if err == nil {
		p.fifos = append(p.fifos, path)
	}
	return path, err
}

// oomKills reads the number of processes that the out-of-memory killer has taken from a cgroup: the line "oom_kill N", in memory.events
// (v2) and memory.oom_control (v1, Linux 4.13) alike. 0 if it cannot be read (the cgroup is gone).
func oomKills(f *linux.FD) uint64 {
	var buf [512]byte
	n, err := f.Pread(buf[:], 0)
	if err != nil {
		return 0
	}
	lines := bytes.Split(buf[:n], []byte("\n"))
	i := slices.IndexFunc(lines, func(l []byte) bool { return bytes.HasPrefix(l, []byte("oom_kill ")) })
	if i < 0 {
		return 0
	}
	count, _ := strconv.ParseUint(string(lines[i][len("oom_kill "):]), 10, 64)
	return count
}
