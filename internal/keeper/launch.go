package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/launch/report"
	"fermata/internal/linux"
	"fermata/internal/logs"
)

func isExist(err error) bool { return errors.Is(err, fs.ErrExist) }

// launch performs a Launch and replies. It goes on if the daemon that asked goes away: the next one finds the process.
func (c *session) launch(m wire.Message) {
	defer linux.CloseAll(m.FDs...)
	l, err := wire.DecodeLaunch(m.Body, m.FDs)
	if err != nil {
		c.reply(m.Request, &wire.Reply{Err: errs.As(errs.InvalidArgument, err)})
		return
	}
	if err := l.Check(); err != nil {
		c.reply(m.Request, &wire.Reply{Err: err})
		return
	}
	p := &process{server: c.server, id: l.ID, kind: l.Kind, decided: make(chan struct{}), held: held{ID: l.ID, Process: l.Kind.String(), Kind: l.Kind}}
	before, err := c.server.admit(p, l.Again)
	if err != nil {
		c.reply(m.Request, &wire.Reply{Err: err})
		return
	}
	defer close(p.decided)
	pidfd, err := p.launch(l)
	if err != nil {
		c.server.dismiss(p, before)
		c.reply(m.Request, &wire.Reply{Err: err})
		return
	}
	p.mu.Lock()
	p.launched = true
	launched := wire.Launched{PID: p.pid, PidfdInode: p.inode, Started: p.started}
	p.mu.Unlock()
	// The reply is queued before the watch begins, so that on this connection it comes before the exit.
	c.reply(m.Request, &wire.Reply{Launched: launched}, pidfd)
	p.follow()
}

// launch starts the process and waits until its program is through. It returns a duplicate of the pidfd. The lock is not held while anything may
// hang: a log's dead disk, or the program.
func (p *process) launch(l *wire.Launch) (pidfd *linux.FD, err error) {
	var ends ends
	defer ends.close()
	if err := p.prepare(l, &ends); err != nil {
		return nil, fmt.Errorf("launch %s: %w", p.id, err)
	}
	said, err := p.start(l, &ends)
	if err != nil {
		return nil, err
	}
	if err := p.reapUntold(said.PID); err != nil {
		p.server.o.warn(err)
	}
	switch {
	case said.PID > 0:
		err = p.take(said.PID)
	case said.broken != nil:
		err = said.broken
	}
	if err == nil && said.Failed {
		err = launchError(said.Op, said.Errno)
	} else if err == nil {
		pidfd, err = p.known()
	}
	if err == nil {
		return pidfd, nil
	}
	p.kill()
	if failed := (*wire.LaunchError)(nil); errors.As(err, &failed) {
		return nil, failed
	}
	return nil, fmt.Errorf("launch %s: %w", p.id, err)
}

// said is a report, or why there is none.
type said struct {
	report.Report
	broken error
}

// start starts the process and reads what its program reports. An error says that there is no process.
func (p *process) start(l *wire.Launch, e *ends) (said, error) {
	reader, writer, err := linux.OutputPipe()
	if err != nil {
		return said{}, fmt.Errorf("launch %s: %w", p.id, err)
	}
	defer reader.Close()
	files := append([]*linux.FD{e.stdin, e.stdout, e.stderr, writer, l.FD(wire.Program)}, l.Children()...)
	pid, pidfd, err := linux.Spawn{
		Executable: l.FD(wire.Stage), Args: []string{"fermata-stage"}, Files: files, CloneFlags: l.CloneFlags, Cgroup: l.FD(wire.Cgroup),
	}.Start()
	writer.Close()
	if err != nil {
		return said{}, launchError(-1, err)
	}
	p.mu.Lock()
	p.pid, p.pidfd = pid, pidfd // to be signalled from now on
	p.mu.Unlock()
	var s said
	s.Report, s.broken = report.Read(reader)
	return s, nil
}

// launchError says what failed. The text of an op is only a number here: programs have names for them, the keeper does not.
func launchError(op int, err error) *wire.LaunchError {
	e := &wire.LaunchError{Op: op, Err: err.Error()}
	errors.As(err, &e.Errno)
	if op >= 0 {
		e.Err = fmt.Sprintf("op %d: %v", op, err)
	}
	return e
}

// reapUntold reaps what the program of a launch that was given up had cloned without telling.
func (p *process) reapUntold(told int) error {
	p.mu.Lock()
	stage, givenUp := p.pid, p.givenUp
	p.mu.Unlock()
	if !givenUp || told > 0 {
		return nil
	}
	return linux.EndGroupOf(stage)
}

// take makes the process that the program cloned the one to watch. It is the keeper's child (CLONE_PARENT); the stage, its maker, is reaped
// here: both have closed the report pipe, so it has ended.
func (p *process) take(pid int) error {
	child, err := linux.OpenPidfd(pid) // not reaped by anybody yet, so it is the right one
	if err != nil {
		return err
	}
	p.mu.Lock()
	stage := p.pidfd
	p.pid, p.pidfd = pid, child
	p.mu.Unlock()
	_, err = stage.WaitPidfd()
	return errors.Join(err, stage.Close())
}

// kill ends a process whose launch failed, and reaps it.
func (p *process) kill() {
	p.mu.Lock()
	pidfd := p.pidfd
	p.pidfd = nil
	p.mu.Unlock()
	pidfd.Signal(syscall.SIGKILL) // the stage has mostly ended by itself
	if _, err := pidfd.WaitPidfd(); err != nil {
		p.server.o.warn(err)
	}
	pidfd.Close()
}

// known completes what is to be known of a launched process and returns a duplicate of its pidfd.
func (p *process) known() (*linux.FD, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = time.Now()
	var err error
	if p.inode, err = p.pidfd.Inode(); err != nil {
		return nil, err
	}
	if p.kind == wire.Pause {
		if err := p.holdNamespaces(); err != nil {
			return nil, err
		}
	}
	if err := p.keepLaunched(); err != nil {
		return nil, err
	}
	return p.pidfd.Dup()
}

// follow begins the watches. They fail only if the kernel has no memory (or its limit max_user_watches is met) for them; then nothing would
// tell of the process's end, so it is ended.
func (p *process) follow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.output != nil {
		p.output.follow()
	}
	// Once: an ended process stays readable until it is reaped.
	token, err := p.server.follow(p.pidfd, linux.PollIn|linux.PollOnce, p)
	p.token = token
	if err != nil {
		p.server.o.warn(err)
		p.pidfd.Signal(syscall.SIGKILL)
		p.server.work.Go(p.end)
	}
}

// ends are the process's ends of its standard streams, until it has been started.
type ends struct {
	stdin, stdout, stderr *linux.FD // some borrowed
	owned                 []*linux.FD
}

func (e *ends) close() { linux.CloseAll(e.owned...) }

// prepare makes the process's streams and takes from the message what is held for it. Nobody else looks at it before it is launched. The caller
// closes the ends once the process has them; what else was made is freed with the process.
func (p *process) prepare(l *wire.Launch, e *ends) (err error) {
	null := p.server.null
	e.stdin, e.stdout, e.stderr = null, null, null
	switch l.Stdin {
	case wire.FIFO:
		err = p.prepareStdin(l, e)
	case wire.Given:
		e.stdin = l.FD(wire.Stdin)
	}
	if err != nil {
		return err
	}
	var sources []source
	for _, s := range []struct {
		name  string
		stdio wire.Stdio
		given wire.Role
		end   **linux.FD
	}{{"stdout", l.Stdout, wire.Stdout, &e.stdout}, {"stderr", l.Stderr, wire.Stderr, &e.stderr}} {
		switch s.stdio {
		case wire.Given:
			*s.end = l.FD(s.given)
		case wire.FIFO:
			reader, err := p.prepareOutput(s.name, s.end, l, e)
			if err != nil {
				linux.CloseAll(fdsOf(sources)...)
				return err
			}
			sources = append(sources, source{s.name, reader, false})
			p.held.Outputs = append(p.held.Outputs, s.name)
		}
	}
	if master := l.FD(wire.Console); master != nil {
		reader, err := p.prepareConsole(master)
		if err != nil {
			linux.CloseAll(fdsOf(sources)...)
			return err
		}
		sources = append(sources, source{"stdout", reader, true})
		p.held.Console = true
	}
	if oom := l.FD(wire.OOM); oom != nil {
		if p.oom, err = oom.Dup(); err != nil {
			linux.CloseAll(fdsOf(sources)...)
			return err
		}
		p.oomBefore = oomKills(p.oom)
		if p.held.OOM, err = oom.Location(); err != nil {
			linux.CloseAll(fdsOf(sources)...)
			return err
		}
		p.held.OOMBefore = p.oomBefore
	}
	return p.prepareLog(l, sources)
}

// source is something whose bytes go to the log.
type source struct {
	stream string
	fd     *linux.FD
	tty    bool
}

func fdsOf(sources []source) (fds []*linux.FD) {
	for _, s := range sources {
		fds = append(fds, s.fd)
	}
	return fds
}

// prepareStdin makes a FIFO of which the process gets the reading end only: EOF arrives when the writing end, held outside, is closed.
func (p *process) prepareStdin(l *wire.Launch, e *ends) error {
	path, err := p.fifo("stdin", l)
	if err != nil {
		return err
	}
	// In this order, non-blocking first, neither waits for the other.
	end, err := linux.Open(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return err
	}
	e.owned = append(e.owned, end)
	e.stdin = end
	if p.stdin, err = linux.Open(path, os.O_WRONLY|nonblock, 0); err != nil {
		return err
	}
	p.held.Stdin = true
	return end.SetNonblock(false)
}

// prepareOutput makes a FIFO of which the process gets a reading and writing end: it has a reader even while no keeper is there, so
// writing into it never is SIGPIPE.
func (p *process) prepareOutput(name string, to **linux.FD, l *wire.Launch, e *ends) (reader *linux.FD, err error) {
	path, err := p.fifo(name, l)
	if err != nil {
		return nil, err
	}
	end, err := linux.Open(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	e.owned = append(e.owned, end)
	*to = end
	return linux.Open(path, os.O_RDONLY|nonblock, 0)
}

// prepareConsole holds a pty's master and returns a duplicate to read from.
func (p *process) prepareConsole(master *linux.FD) (reader *linux.FD, err error) {
	if err := master.SetNonblock(true); err != nil {
		return nil, err
	}
	if p.console, err = master.Dup(); err != nil {
		return nil, err
	}
	return master.Dup()
}

// prepareLog opens the log and makes what reads the sources, which it takes.
func (p *process) prepareLog(l *wire.Launch, sources []source) error {
	if len(sources) == 0 {
		return nil
	}
	p.output = newOutput(p.server, logs.NewWriter(nil), l.Log != nil)
	maxLine := 0
	if l.Log != nil {
		maxLine = l.Log.MaxLine
	}
	for _, s := range sources {
		p.output.add(s, maxLine)
	}
	if l.Log == nil {
		return nil
	}
	return p.openLog(l.FD(wire.LogDir), l.Log)
}

// openLog opens the log and its journal; what was made is freed with the process.
func (p *process) openLog(dir *linux.FD, l *wire.Log) error {
	path, err := dir.Location()
	if err != nil {
		return err
	}
	p.held.Log = &heldLog{Dir: path, Base: l.Base, MaxLine: l.MaxLine, MaxSize: l.MaxSize, MaxFiles: l.MaxFiles, Rate: l.Rate}
	p.output.limits = &limits{heldLog: *p.held.Log}
	file, err := logs.OpenFile(dir, l.Base)
	if err != nil {
		return err
	}
	p.output.writer.Reopen(file)
	p.fifos = append(p.fifos, p.journalPath())
	if p.output.journal, err = newJournal(p.journalPath(), l.MaxLine); err != nil {
		return err
	}
	p.output.noteFile(file)
	return nil
}

const nonblock = syscall.O_NONBLOCK

// errNoReader is what opening a FIFO to write without waiting says where nobody has it open to read.
const errNoReader = syscall.ENXIO
