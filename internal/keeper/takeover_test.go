package keeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// mortal is a keeper in a process of its own, to be killed.
type mortal struct {
	*world
	o    client.StartOptions
	kept []*linux.FD // what a daemon holds for it
	n    int
}

func newMortal(t *testing.T) *mortal {
	t.Helper()
	w := begin(t, keeper.Options{})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{world: w, o: client.StartOptions{Binary: exe, Socket: w.o.Socket, State: w.o.State, Root: w.o.Root, LogFile: filepath.Join(w.dir, "log")}}
	if err := client.Start(t.Context(), m.o); err != nil {
		t.Fatal(err)
	}
	w.dial()
	t.Cleanup(func() {
		linux.CloseAll(m.kept...)
		w.end()
		if t.Failed() {
			b, _ := os.ReadFile(m.o.LogFile)
			t.Logf("the keepers said:\n%s", b)
		}
	})
	return m
}

// pid asks a process whose child it is.
func (m *mortal) pid() int {
	m.t.Helper()
	m.n++
	id := fmt.Sprintf("who%d", m.n)
	m.sh(id, "echo $PPID", m.logged)
	m.exits.of(id)
	var pid int
	fmt.Sscan(strings.TrimPrefix(m.entries(id + ".log")[0], "stdout F "), &pid)
	if err := m.Forget(m.t.Context(), id); err != nil {
		m.t.Fatal(err)
	}
	return pid
}

// kill ends the keeper at whatever it does, and returns when that is told.
func (m *mortal) kill() {
	m.t.Helper()
	if err := syscall.Kill(m.pid(), syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	<-m.Done()
	m.Close()
}

// follow starts the next keeper.
func (m *mortal) follow() {
	m.t.Helper()
	if err := client.Start(m.t.Context(), m.o); err != nil {
		m.t.Fatal(err)
	}
	m.dial()
}

// hold opens a process's FIFOs, as the daemon does: what is in them outlives process and keeper.
func (m *mortal) hold(id string) {
	m.t.Helper()
	for _, stream := range []string{"stdout", "stderr"} {
		f, err := linux.Open(filepath.Join(m.o.State, "fifo", id+"."+stream), os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			m.t.Fatal(err)
		}
		m.kept = append(m.kept, f)
	}
}

const writers, lines, bulk = 3, 60000, 1500000

// write starts processes that write numbered lines; when they have ended, check reads what came of it.
func (m *mortal) write() {
	m.t.Helper()
	script := `i=0; while [ $i -lt %d ]; do i=$((i+1)); echo "line $i"; %s done; exit %d`
	for i, odd := range []string{"", `echo "odd $i, a longer one, to a place of its own" >&2;`, `[ $((i % 1000)) -gt 0 ] || sleep 0.01; echo -n "$((i%10))" >&2;`} {
		id := fmt.Sprintf("writer%d", i)
		m.sh(id, fmt.Sprintf(script, lines, odd, 10+i), m.logged)
		m.hold(id)
	}
	m.sh("bulk", fmt.Sprintf("i=0; while [ $i -lt %d ]; do seq $((i+1)) $((i+1000)); i=$((i+1000)); done", bulk), m.logged)
	m.hold("bulk")
}

// check reads the logs of what write started: each line once, whole, and in its stream's order; and its exits.
func (m *mortal) check() {
	t := m.t
	t.Helper()
	if e := m.exits.of("bulk"); e.Code != 0 || e.LogDropped != 0 {
		t.Errorf("bulk ended with %+v", e)
	}
	for i, entry := range m.entries("bulk.log") {
		if entry != fmt.Sprintf("stdout F %d", i+1) {
			t.Fatalf("bulk: line %d is %q", i+1, entry)
		}
	}
	for i := range writers {
		id := fmt.Sprintf("writer%d", i)
		if e := m.exits.of(id); e.Code != 10+i || e.LogDropped != 0 {
			t.Errorf("%s ended with %+v", id, e)
		}
		var out, other int
		var odd strings.Builder
		for _, entry := range m.entries(id + ".log") {
			switch text, isOut := strings.CutPrefix(entry, "stdout F "); {
			case isOut:
				if out++; text != fmt.Sprintf("line %d", out) {
					t.Fatalf("%s: stdout's line %d is %q", id, out, text)
				}
			case i == 1:
				if other++; entry != fmt.Sprintf("stderr F odd %d, a longer one, to a place of its own", other) {
					t.Fatalf("%s: stderr's line %d is %q", id, other, entry)
				}
			default:
				odd.WriteString(entry[len("stderr P "):])
			}
		}
		if out != lines || i == 1 && other != lines {
			t.Errorf("%s: %d and %d lines", id, out, other)
		}
		if want := strings.Repeat("1234567890", lines/10); i == 2 && odd.String() != want {
			t.Errorf("%s: a line without end came as %d bytes, want %d", id, odd.Len(), len(want))
		}
	}
}

// Whenever the keeper is killed, its follower goes on: each line is in the log once, whole, and in its place; every exit is told as it was.
func TestAKilledKeeperLosesNothing(t *testing.T) {
	const kills = 25
	m := newMortal(t)
	m.write()
	var slowest time.Duration
	for i := range kills {
		id, gate := fmt.Sprintf("ends%d", i), fmt.Sprintf("gate%d", i)
		if err := linux.Mkfifo(filepath.Join(m.dir, gate), 0, 0); err != nil {
			t.Fatal(err)
		}
		m.sh(id, fmt.Sprintf("read x < %s/%s; echo $x; exit %d", m.dir, gate, i), m.logged)
		m.hold(id)
		m.kill()
		m.open(gate) // it ends while no keeper is there
		began := time.Now()
		m.follow()
		slowest = max(slowest, time.Since(began))
		if e := m.exits.of(id); e.Code != i || e.Signal != 0 || e.Unknown {
			t.Errorf("%s ended with %+v", id, e)
		}
		if err := m.Forget(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills; the slowest take-over took %v", kills, slowest)
	m.check()
}

func TestAProcessIsAllThereForTheNextKeeper(t *testing.T) {
	m := newMortal(t)
	launched := m.sh("p", "trap 'echo termed; exit 3' TERM; echo begun; cat; while :; do sleep 0.01; done", m.logged, func(l *wire.Launch) { l.Stdin = wire.FIFO })
	in, err := m.Stdin(t.Context(), "p") // as the daemon holds it, so that no end of file comes
	if err != nil {
		t.Fatal(err)
	}
	m.eventually("it has begun", func() bool { return len(m.entries("p.log")) == 1 })
	m.kill()
	m.follow()
	processes, err := m.Processes(t.Context())
	if err != nil || len(processes) != 1 || processes[0].PID != launched.PID || processes[0].PidfdInode != launched.PidfdInode || processes[0].Exit != nil ||
		!processes[0].Started.Equal(launched.Started) {
		t.Fatalf("listed %+v, %v; launched %+v", processes, err, launched)
	}
	pidfd, err := m.Pidfd(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if inode, err := pidfd.Inode(); err != nil || inode != launched.PidfdInode {
		t.Errorf("inode %d, %v", inode, err)
	}
	pidfd.Close()
	if _, err := in.Write([]byte("from one\n")); err != nil {
		t.Error(err)
	}
	in.Close()
	again, err := m.Stdin(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Write([]byte("from the next\n")); err != nil {
		t.Error(err)
	}
	again.Close()
	if err := m.ReopenLog(t.Context(), "p", m.logDir, "p2.log"); err != nil {
		t.Error(err)
	}
	if err := m.CloseStdin(t.Context(), "p"); err != nil {
		t.Error(err)
	}
	m.kill()
	m.follow()
	if _, err := m.Stdin(t.Context(), "p"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("stdin was closed, and is there: %v", err)
	}
	m.eventually("its shell has come to the loop", func() bool { return m.Signal(t.Context(), "p", syscall.SIGTERM) != nil })
	if e := m.exits.of("p"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	got := fmt.Sprint(m.entries("p.log"), m.entries("p2.log"))
	if strings.Count(got, "begun") != 1 || strings.Count(got, "from one") != 1 || strings.Count(got, "from the next") != 1 || strings.Count(got, "termed") != 1 {
		t.Errorf("logs %v", got)
	}
}

func TestATerminalLivesAsLongAsOneHoldsIt(t *testing.T) {
	m := newMortal(t)
	run := func(id string) *linux.FD {
		devpts, err := linux.NewMount("devpts", 0, linux.Option{Key: "newinstance"}, linux.Option{Key: "ptmxmode", Value: "0666"})
		if err != nil {
			t.Fatal(err)
		}
		defer devpts.Close()
		master, slave, err := devpts.NewTerminal()
		if err != nil {
			t.Fatal(err)
		}
		defer slave.Close()
		m.sh(id, "trap 'exit 5' TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.01; done", func(l *wire.Launch) {
			l.Stdin, l.Stdout, l.Stderr = wire.Given, wire.Given, wire.Given
			l.Log = &wire.Log{Base: id + ".log"}
			l.FDs = append(l.FDs, wire.PassedFD{Role: wire.LogDir, FD: m.logDir}, wire.PassedFD{Role: wire.Stdin, FD: slave}, wire.PassedFD{Role: wire.Stdout, FD: slave},
				wire.PassedFD{Role: wire.Stderr, FD: slave}, wire.PassedFD{Role: wire.Console, FD: master})
		})
		return master
	}
	master := run("kept")
	m.kept = append(m.kept, master)
	m.kill()
	m.follow()
	before := len(m.entries("kept.log"))
	if _, err := m.Console(t.Context(), "kept"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a master that nobody gave: %v", err)
	}
	for range 2 { // the second is not needed
		if err := m.Restore(t.Context(), "kept", master); err != nil {
			t.Fatal(err)
		}
	}
	m.eventually("its log grows", func() bool { return len(m.entries("kept.log")) > before+5 })
	if err := m.Signal(t.Context(), "kept", syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if e := m.exits.of("kept"); e.Code != 5 || e.Note != "" {
		t.Errorf("exit %+v", e)
	}
	for i, entry := range m.entries("kept.log") {
		if entry != fmt.Sprintf("stdout F tick %d", i+1) {
			t.Fatalf("line %d is %q", i+1, entry)
		}
	}
	if err := m.Restore(t.Context(), "kept", master); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("restore what has ended: %v", err)
	}
}

func TestWhatBelongsToNothingIsSweptAway(t *testing.T) {
	m := newMortal(t)
	launched := m.sh("p", "exec sleep 1000", m.logged)
	stray := filepath.Join(m.o.State, "pins", "stray")
	if err := launched.Pidfd.Pin(stray); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stray.stdout", "stray.journal"} {
		if err := os.WriteFile(filepath.Join(m.o.State, "fifo", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	broken := filepath.Join(m.o.State, "processes", "broken")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.kill()
	m.follow()
	if left, _ := filepath.Glob(m.o.State + "/*/stray*"); len(left) != 0 || exists(t, broken) {
		t.Errorf("left: %v", left)
	}
	if processes, err := m.Processes(t.Context()); err != nil || len(processes) != 1 || processes[0].Exit != nil {
		t.Errorf("listed %+v, %v", processes, err)
	}
	if !exists(t, m.o.State, "pins", "p") || !exists(t, m.o.State, "fifo", "p.journal") {
		t.Error("what belongs to something was swept away")
	}
}
