package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fermata/internal/durable"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
	"fermata/internal/logs"
)

// held is a process on disk (<state>/processes/<id>): with it a next keeper takes over what this one holds, should it be killed. The process's exit is
// pinned beside it (<state>/pins/<id>), what of its output is not in the log is in its journal.
type held struct {
	ID      string    `json:"id"`
	Process string    `json:"process"` // its kind in words, for readers
	Kind    wire.Kind `json:"processKind"`
	PID     int       `json:"pid"`
	Inode   uint64    `json:"pidfdInode"` // 0 before Linux 6.9
	Started time.Time `json:"started"`
	// Stdin says that it has one which was not closed; Outputs are the streams that it writes to FIFOs, Console that it has a terminal instead.
	Stdin   bool     `json:"stdin,omitempty"`
	Outputs []string `json:"outputs,omitempty"`
	Console bool     `json:"console,omitempty"`
	// Log is nil if nothing is logged.
	Log *heldLog `json:"log,omitempty"`
	// OOM is the path of the cgroup's counter of kills for want of memory, OOMBefore what it was; "" without one.
	OOM       string `json:"oom,omitempty"`
	OOMBefore uint64 `json:"oomBefore,omitempty"`
}

type heldLog struct {
	Dir     string `json:"dir"`
	Base    string `json:"base"`
	MaxLine int    `json:"maxLine,omitempty"`
	// MaxSize, MaxFiles and Rate are as in wire.Log.
	MaxSize  int64 `json:"maxSize,omitempty"`
	MaxFiles int   `json:"maxFiles,omitempty"`
	Rate     int64 `json:"rate,omitempty"`
}

const heldKind = "process"

func (s *Server) heldDir() string { return filepath.Join(s.o.State, "processes") }
func (s *Server) pinDir() string  { return filepath.Join(s.o.State, "pins") }

func (p *process) heldPath() string    { return filepath.Join(p.server.heldDir(), fileName(p.id)) }
func (p *process) pinPath() string     { return filepath.Join(p.server.pinDir(), fileName(p.id)) }
func (p *process) journalPath() string { return p.fifoPath("journal") }
func (p *process) fifoPath(stream string) string {
	return wire.FIFOPath(p.server.o.State, p.id, stream)
}

// keep writes the record. The caller holds p.mu.
func (p *process) keep() error {
	return durable.Write(p.heldPath(), heldKind, &p.held, durable.Options{})
}

// keepLaunched records and pins a process that was just launched. The caller holds p.mu. An exec has no pin: it would cost every probe two mounts.
func (p *process) keepLaunched() error {
	p.held.PID, p.held.Inode, p.held.Started = p.pid, p.inode, p.started
	if p.server.pins && p.kind != wire.Exec {
		if err := errors.Join(linux.Unpin(p.pinPath()), p.pidfd.Pin(p.pinPath())); err != nil {
			return err
		}
	}
	return p.keep()
}

// unkeep removes record and pin. The caller holds p.mu.
func (p *process) unkeep() {
	if err := os.Remove(p.heldPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.server.o.warn(err)
	}
	if p.server.pins && p.kind != wire.Exec {
		p.server.o.warn(linux.Unpin(p.pinPath()))
	}
}

// openPins makes the place for pins, if this kernel can pin.
func (s *Server) openPins() error {
	if err := linux.MountPins(s.pinDir()); err != nil {
		return err
	}
	self, err := linux.OpenPidfd(os.Getpid())
	if err != nil {
		return err
	}
	defer self.Close()
	probe := filepath.Join(s.pinDir(), ".probe")
	if err := linux.Unpin(probe); err != nil {
		return err
	}
	_, _, err = self.PidfdExit()
	if err == nil {
		err = self.Pin(probe)
	}
	s.pins = err == nil // before Linux 6.15 it is EINVAL or ENOTTY: then the exit of what ends while no keeper runs is known to the daemon alone, or lost
	return linux.Unpin(probe)
}

// readHeld takes over what an earlier keeper held when it was killed, and removes what belongs to nothing.
func (s *Server) readHeld(before *inherited) error {
	if err := durable.Sweep(s.heldDir()); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.heldDir())
	if err != nil {
		return fmt.Errorf("read held processes: %w", err)
	}
	for _, entry := range entries {
		if !durable.IsRecord(entry.Name()) {
			continue
		}
		path := filepath.Join(s.heldDir(), entry.Name())
		var h held
		if err := durable.Read(path, heldKind, &h); err != nil {
			s.o.warn(err)
			continue
		}
		if wire.CheckID(h.ID) != nil || fileName(h.ID) != entry.Name() {
			aside, err := durable.Quarantine(path)
			s.o.warn(errors.Join(fmt.Errorf("read held process %s: it is of %q (set aside as %s)", path, h.ID, aside), err))
			continue
		}
		p := s.processes[h.ID]
		if p == nil { // else its exit is recorded: nothing but that is left of it
			p = &process{server: s, id: h.ID, kind: h.Kind, pid: h.PID, inode: h.Inode, started: h.Started, launched: true}
			s.processes[h.ID] = p
			p.takeOver(&h, before)
		} else {
			p.takeNamespaces(before)
		}
		p.held = h
	}
	return s.sweepFiles()
}

// sweepFiles removes FIFOs, journals and pins of processes that are not there: of launches that the keeper before did not get through, and of what it was forgetting.
func (s *Server) sweepFiles() error {
	entries, err := os.ReadDir(s.fifoDir())
	if err != nil {
		return fmt.Errorf("sweep fifos: %w", err)
	}
	wanted := map[string]bool{}
	for _, p := range s.processes {
		for _, path := range p.fifos {
			wanted[filepath.Base(path)] = true
		}
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			s.o.warn(os.Remove(filepath.Join(s.fifoDir(), e.Name())))
		}
	}
	pins, err := os.ReadDir(s.pinDir())
	if err != nil {
		return fmt.Errorf("sweep pins: %w", err)
	}
	pinned := map[string]bool{}
	for id := range s.processes {
		pinned[fileName(id)] = true
	}
	for _, e := range pins {
		if !pinned[e.Name()] {
			s.o.warn(linux.Unpin(filepath.Join(s.pinDir(), e.Name())))
		}
	}
	return nil
}

// takeOver opens again what an earlier keeper held of a process. What cannot be had is done without, and said: the process is not the less for it.
// Nobody else looks at it yet.
func (p *process) takeOver(h *held, before *inherited) {
	p.held = *h
	warn := func(err error) {
		if err != nil {
			p.server.o.warn(fmt.Errorf("take over %s: %w", p.id, err))
		}
	}
	var err error
	if p.pidfd = before.take(p.id, handedPidfd); p.pidfd == nil {
		p.pidfd, err = p.find(h)
	}
	warn(err)
	alive := p.pidfd != nil && !p.pidfd.PidfdEnded() // a zombie takes signals too
	if h.OOM != "" {
		p.oom, p.oomBefore = reopenOOM(h.OOM), h.OOMBefore
	}
	p.console = before.take(p.id, handedConsole)
	if p.stdin = before.take(p.id, handedStdin); p.stdin == nil && h.Stdin && alive {
		if p.stdin, err = linux.Open(p.fifoPath("stdin"), os.O_WRONLY|nonblock, 0); err != nil {
			warn(err)
		}
	}
	p.takeNamespaces(before)
	if h.Kind == wire.Pause && alive && len(p.namespaces) == 0 {
		p.mu.Lock()
		err := p.holdNamespaces()
		p.mu.Unlock()
		if err == nil {
			err = p.pidfd.Signal(0) // they were those of this process if it is there still
		}
		warn(err)
	}
	warn(p.takeOverOutput(h, before))
	if p.pidfd == nil {
		p.lost = "the process ended while no keeper ran, and this kernel does not keep how (Linux 6.15 does)"
		p.server.work.Go(p.end)
		return
	}
	p.follow()
}

// takeNamespaces takes those that the program before held.
func (p *process) takeNamespaces(before *inherited) {
	for _, kind := range namespaceKinds {
		if fd := before.take(p.id, handedNamespace+kind); fd != nil {
			p.namespaces = append(p.namespaces, namespace{kind, fd})
		}
	}
}

// find returns the pidfd of a process that an earlier keeper launched: by its pin, else by its PID if that is still its own; nil if it is gone.
func (p *process) find(h *held) (*linux.FD, error) {
	if p.server.pins && p.kind != wire.Exec {
		pidfd, err := linux.OpenPinned(p.pinPath())
		if err == nil {
			if inode, err := pidfd.Inode(); err == nil && inode == h.Inode {
				return pidfd, nil
			}
			pidfd.Close() // not mounted: the state directory's own file
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	pidfd, err := linux.OpenPidfd(h.PID)
	if linux.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if inode, err := pidfd.Inode(); err != nil || inode != h.Inode {
		pidfd.Close()
		return nil, err
	}
	return pidfd, nil
}

// reopenOOM opens a cgroup's counter by its path; nil if it is gone, or none.
func reopenOOM(path string) *linux.FD {
	if base := filepath.Base(path); base != "memory.events" && base != "memory.oom_control" {
		return nil
	}
	f, err := linux.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	return f
}

// takeOverOutput goes on reading FIFOs, and with the log where its last whole line ends. A terminal's master is awaited from the daemon ([process.restore]).
func (p *process) takeOverOutput(h *held, before *inherited) error {
	var sources []source
	var failed []error
	var followers []func() error // what is logged again was told to them
	orphaned := false
	for _, name := range h.Outputs {
		path := p.fifoPath(name)
		p.fifos = append(p.fifos, path)
		if reader := before.take(p.id, handedStream+name); reader != nil {
			sources = append(sources, source{name, reader, false})
			continue
		}
		// Opened to write first, which only succeeds while somebody has it open to read: from then on its contents stay, whoever goes away.
		holder, err := linux.Open(path, os.O_WRONLY|nonblock, 0)
		if errors.Is(err, errNoReader) && p.ending() {
			orphaned = true
		}
		reader, err := linux.Open(path, os.O_RDONLY|nonblock, 0)
		holder.Close()
		if err != nil {
			failed = append(failed, err)
			continue
		}
		sources = append(sources, source{name, reader, false})
	}
	if h.Stdin {
		p.fifos = append(p.fifos, p.fifoPath("stdin"))
	}
	if h.Console {
		sources = append(sources, source{"stdout", before.take(p.id, handedStream+"stdout"), true})
	}
	if len(sources) == 0 {
		return errors.Join(failed...)
	}
	p.output = newOutput(p.server, logs.NewWriter(nil), h.Log != nil)
	maxLine := 0
	if h.Log != nil {
		maxLine = h.Log.MaxLine
	}
	for _, s := range sources {
		p.output.add(s, maxLine)
	}
	for _, s := range p.output.streams {
		for pipe := before.take(p.id, handedFollower+s.name); pipe != nil; pipe = before.take(p.id, handedFollower+s.name) {
			followers = append(followers, func() error { return s.followers.add(pipe) })
		}
	}
	if h.Log != nil {
		p.fifos = append(p.fifos, p.journalPath())
		failed = append(failed, p.takeOverLog(h.Log))
		if orphaned {
			p.output.remark("the process ended while neither keeper nor daemon ran; what it wrote last may be missing")
		}
	}
	for _, add := range followers {
		failed = append(failed, add())
	}
	return errors.Join(failed...)
}

// ending reports whether a process that is taken over has ended, or is so far on its way that it has closed its FIFOs: then their contents went with it.
func (p *process) ending() bool {
	if p.pidfd == nil {
		return true
	}
	ending, err := p.pidfd.PidfdEnding()
	p.server.o.warn(err)
	return ending
}

// takeOverLog opens the log that was written to, wherever it was moved, and logs what the journal has.
func (p *process) takeOverLog(l *heldLog) error {
	j, err := openJournal(p.journalPath(), l.MaxLine)
	if err != nil { // of another version, or gone: what was being read is lost, what is to come is not
		var e error
		if j, e = newJournal(p.journalPath(), l.MaxLine); e != nil {
			return errors.Join(err, e)
		}
	}
	p.output.journal = j
	p.output.limits = &limits{heldLog: *l}
	file, same, e := findLog(l, j.note.device, j.note.inode)
	if file != nil {
		p.output.writer.Reopen(file)
	}
	p.output.resume(file, same)
	return errors.Join(err, e)
}

// findLog opens the file of an identity in a log's directory: whoever moved it (a rotation) has not asked for a new one yet. If it is not there, the log is
// opened by its name.
func findLog(l *heldLog, device, inode uint64) (file *linux.FD, same bool, err error) {
	dir, err := linux.OpenDir(l.Dir)
	if err != nil {
		return nil, false, err
	}
	defer dir.Close()
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		// The log, or a name that was made from its.
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), strings.TrimSuffix(l.Base, ".log")) {
			continue
		}
		f, err := logs.OpenFile(dir, e.Name())
		if err != nil {
			continue
		}
		if d, i, err := f.Identity(); err == nil && d == device && i == inode {
			return f, true, nil
		}
		f.Close()
	}
	file, err = logs.OpenFile(dir, l.Base)
	return file, false, err
}
