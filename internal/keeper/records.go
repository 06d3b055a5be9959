package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"fermata/internal/durable"
	"fermata/internal/keeper/wire"
)

// record is an exit on disk.
type record struct {
	ID         string    `json:"id"`
	Process    string    `json:"process"` // its kind in words, for readers
	Kind       wire.Kind `json:"processKind"`
	PID        int       `json:"pid"`
	Code       int       `json:"code"`
	Signal     int       `json:"signal,omitempty"`
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	Started    time.Time `json:"started"`
	Finished   time.Time `json:"finished"`
	LogDropped uint64    `json:"logDropped,omitempty"`
	Unknown    bool      `json:"unknown,omitempty"`
	Note       string    `json:"note,omitempty"`
}

const recordKind = "exit"

// record writes an exit where a next keeper finds it: in the state directory, or where it outlives a reboot.
func (s *Server) record(dir string, e *wire.Exit, o durable.Options) {
	r := record{
		ID: e.ID, Process: e.Kind.String(), Kind: e.Kind, PID: e.PID, Code: e.Code, Signal: int(e.Signal), OOMKilled: e.OOMKilled,
		Started: e.Started, Finished: e.Finished, LogDropped: e.LogDropped, Unknown: e.Unknown, Note: e.Note,
	}
	s.o.warn(durable.Write(filepath.Join(dir, fileName(e.ID)), recordKind, &r, o))
}

// unrecord removes an exit's records.
func (s *Server) unrecord(id string) error {
	var failed []error
	for _, dir := range []string{s.exitDir(), s.lateExitDir()} {
		if err := os.Remove(filepath.Join(dir, fileName(id))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// readExits takes over the exits that an earlier keeper recorded and nobody forgot. A broken record is set aside and warned of.
func (s *Server) readExits() error {
	for _, dir := range []string{s.exitDir(), s.lateExitDir()} {
		if err := durable.Sweep(dir); err != nil {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("read exits: %w", err)
		}
		for _, entry := range entries {
			var r record
			if !durable.IsRecord(entry.Name()) {
				continue
			}
			if err := durable.Read(filepath.Join(dir, entry.Name()), recordKind, &r); err != nil {
				s.o.warn(err)
				continue
			}
			e := &wire.Exit{
				ID: r.ID, Kind: r.Kind, PID: r.PID, Code: r.Code, Signal: syscall.Signal(r.Signal), OOMKilled: r.OOMKilled,
				Started: r.Started, Finished: r.Finished, LogDropped: r.LogDropped, Unknown: r.Unknown, Note: r.Note,
			}
			if path := filepath.Join(dir, entry.Name()); wire.CheckID(r.ID) != nil || fileName(r.ID) != entry.Name() {
				aside, err := durable.Quarantine(path)
				s.o.warn(errors.Join(fmt.Errorf("read exit %s: it is of %q (set aside as %s)", path, r.ID, aside), err))
				continue
			}
			if s.processes[e.ID] == nil {
				s.processes[e.ID] = &process{server: s, id: e.ID, kind: e.Kind, pid: e.PID, started: e.Started, launched: true, told: e}
			}
		}
	}
	return nil
}
