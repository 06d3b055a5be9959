package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/logs"
)

// patience bounds what is waited for; nothing is decided by it.
const patience = 30 * time.Second

// world is a keeper in this process, a client of it, and what a daemon would have at hand.
type world struct {
	t      testing.TB
	dir    string // short: a socket lies in it
	logs   string
	o      keeper.Options
	server *keeper.Server
	served chan error
	stage  *launch.Files
	logDir *linux.FD
	*client.Client
	exits *exits
}

// exits collects what OnExit is told.
type exits struct {
	mu    sync.Mutex
	all   []wire.Exit
	more  chan struct{} // closed and replaced at every exit
	tests testing.TB
}

func newExits(t testing.TB) *exits { return &exits{more: make(chan struct{}), tests: t} }

func (e *exits) add(x wire.Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, x)
	close(e.more)
	e.more = make(chan struct{})
}

// of waits for the exit of a process.
func (e *exits) of(id string) wire.Exit {
	e.tests.Helper()
	timeout := time.After(patience)
	for {
		e.mu.Lock()
		more := e.more
		for _, x := range e.all {
			if x.ID == id {
				e.mu.Unlock()
				return x
			}
		}
		e.mu.Unlock()
		select {
		case <-more:
		case <-timeout:
			e.tests.Fatalf("%s has not ended", id)
		}
	}
}

func begin(t testing.TB, o keeper.Options) *world {
	t.Helper()
	w := &world{t: t, o: o, exits: newExits(t)}
	var err error
	if w.dir, err = os.MkdirTemp("", "keeper"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	w.logs = filepath.Join(w.dir, "logs")
	if err := os.Mkdir(w.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if w.logDir, err = linux.OpenDir(w.logs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.logDir.Close() })
	if w.stage, err = launch.NewStage(""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.stage.Close() })
	w.o.Socket, w.o.State, w.o.Root = filepath.Join(w.dir, "sock"), filepath.Join(w.dir, "state"), filepath.Join(w.dir, "root")
	if w.o.Warn == nil {
		w.o.Warn = func(err error) { t.Errorf("the keeper warned: %v", err) }
	}
	return w
}

// start makes a world with a running keeper.
func start(t testing.TB, o keeper.Options) *world {
	t.Helper()
	w := begin(t, o)
	w.serve()
	w.dial()
	t.Cleanup(w.end)
	return w
}

func (w *world) serve() {
	w.t.Helper()
	var err error
	if w.server, err = keeper.New(w.o); err != nil {
		w.t.Fatal(err)
	}
	w.served = make(chan error, 1)
	go func() { w.served <- w.server.Serve() }()
}

func (w *world) dial() {
	w.t.Helper()
	var err error
	if w.Client, err = client.Dial(w.t.Context(), client.Options{Socket: w.o.Socket, OnExit: w.exits.add}); err != nil {
		w.t.Fatal(err)
	}
}

// end kills and forgets all that is left, and ends the keeper.
func (w *world) end() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w.Client.Close()
	exits := newExits(w.t)
	c, err := client.Dial(ctx, client.Options{Socket: w.o.Socket, OnExit: exits.add})
	if err != nil {
		w.t.Error(err)
		return
	}
	defer c.Close()
	processes, err := c.Processes(ctx)
	if err != nil {
		w.t.Error(err)
	}
	for _, p := range processes {
		if err := c.Signal(ctx, p.ID, syscall.SIGKILL); err != nil && !errs.Is(err, errs.NotFound) {
			w.t.Error(err)
		}
		exits.of(p.ID)
		if err := c.Forget(ctx, p.ID); err != nil {
			w.t.Error(err)
		}
	}
	if err := c.Shutdown(ctx); err != nil {
		w.t.Error(err)
	}
	if w.served == nil {
		return
	}
	select {
	case err := <-w.served:
		if err != nil {
			w.t.Error(err)
		}
	case <-ctx.Done():
		w.t.Error("the keeper does not end")
	}
}

// program is a launch program that only executes a command; more adds what comes before.
func (w *world) program(argv []string, more ...func(*launch.Builder)) *linux.FD {
	w.t.Helper()
	b := launch.NewBuilder(launch.Native())
	for _, do := range more {
		do(b)
	}
	b.Do("execute "+argv[0], launch.Execve, argv[0], argv, []string{"PATH=/usr/bin:/bin"})
	return w.memory(b)
}

func (w *world) memory(b *launch.Builder) *linux.FD {
	w.t.Helper()
	p, err := b.Program()
	if err != nil {
		w.t.Fatal(err)
	}
	f, err := p.Memory()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { f.Close() })
	return f
}

// request is a Launch with its stage and program.
func (w *world) request(id string, program *linux.FD, change ...func(*wire.Launch)) *wire.Launch {
	l := &wire.Launch{ID: id, Kind: wire.Container, FDs: []wire.PassedFD{{Role: wire.Stage, FD: w.stage.Stage}, {Role: wire.Program, FD: program}}}
	for _, c := range change {
		c(l)
	}
	return l
}

// run launches and fails the test if that fails.
func (w *world) run(l *wire.Launch) *wire.Launched {
	w.t.Helper()
	launched, err := w.Launch(w.t.Context(), l)
	if err != nil {
		w.t.Fatalf("launch %s: %v", l.ID, err)
	}
	w.t.Cleanup(func() { launched.Pidfd.Close() })
	return launched
}

// sh launches a shell script.
func (w *world) sh(id, script string, change ...func(*wire.Launch)) *wire.Launched {
	w.t.Helper()
	return w.run(w.request(id, w.program([]string{"/bin/sh", "-c", script}), change...))
}

// logged has the output logged to <id>.log.
func (w *world) logged(l *wire.Launch) {
	l.Stdout, l.Stderr = wire.FIFO, wire.FIFO
	l.Log = &wire.Log{Base: l.ID + ".log"}
	l.FDs = append(l.FDs, wire.PassedFD{Role: wire.LogDir, FD: w.logDir})
}

// entries reads a log: "stdout F text".
func (w *world) entries(base string) []string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.logs, base))
	if err != nil {
		w.t.Fatal(err)
	}
	var entries []string
	for line := range strings.Lines(string(b)) {
		e, err := logs.Parse([]byte(line))
		if err != nil {
			w.t.Fatalf("%s: %v in %.200q", base, err, line)
		}
		if since := time.Since(e.Time); since < 0 || since > time.Hour {
			w.t.Errorf("%s: an entry of %v", base, e.Time)
		}
		tag := "F"
		if e.Partial {
			tag = "P"
		}
		entries = append(entries, fmt.Sprintf("%s %s %s", e.Stream, tag, e.Content))
	}
	return entries
}

// eventually waits for something that has no event to wait on.
func (w *world) eventually(what string, true func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !true(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not so in %v: %s", patience, what)
		}
	}
}

func launchFailure(err error) *wire.LaunchError {
	var e *wire.LaunchError
	errors.As(err, &e)
	return e
}
