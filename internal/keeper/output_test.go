package keeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/keeper"
	"fermata/internal/keeper/wire"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

func TestWhatAProcessWritesIsLoggedBeforeItsExitIsTold(t *testing.T) {
	w := start(t, keeper.Options{})
	long := strings.Repeat("x", 16384)
	for i, c := range []struct {
		name, script string
		want         []string
	}{
		{"both streams", "echo out; echo err >&2", []string{"stdout F out", "stderr F err"}},
		{"nothing", "true", nil},
		{"no newline at the end", "printf 'a\\nb'", []string{"stdout F a", "stdout P b"}},
		{"a line of exactly the longest", "head -c 16384 /dev/zero | tr '\\0' x; echo", []string{"stdout F " + long}},
		{"a byte over", "head -c 16385 /dev/zero | tr '\\0' x; echo", []string{"stdout P " + long, "stdout F x"}},
		{"killed after writing", "echo last words; kill -KILL $$", []string{"stdout F last words"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := fmt.Sprint("p", i)
			w.sh(id, c.script, w.logged)
			e := w.exits.of(id)
			got := w.entries(id + ".log")
			if len(got) == 2 && strings.HasPrefix(got[0], "stderr") { // the streams have no order between them
				got[0], got[1] = got[1], got[0]
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) || e.LogDropped != 0 {
				t.Errorf("log %.300q, want %.300q; dropped %d", got, c.want, e.LogDropped)
			}
		})
	}
}

func TestMuchIsLoggedWhole(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "seq 1 300000; seq 1 1000 >&2", w.logged)
	w.exits.of("p")
	next := map[string]int{"stdout": 1, "stderr": 1}
	for _, e := range w.entries("p.log") {
		stream := strings.Fields(e)[0]
		if want := fmt.Sprintf("%s F %d", stream, next[stream]); e != want {
			t.Fatalf("entry %q, want %q", e, want)
		}
		next[stream]++
	}
	if next["stdout"] != 300001 || next["stderr"] != 1001 {
		t.Errorf("lines up to %v", next)
	}
}

func TestLongestLineIsTheRequestsChoice(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "echo abcde", w.logged, func(l *wire.Launch) { l.Log.MaxLine = 2 })
	w.exits.of("p")
	if got := fmt.Sprint(w.entries("p.log")); got != "[stdout P ab stdout P cd stdout F e]" {
		t.Errorf("log %v", got)
	}
}

func TestOutputWithoutALogIsDiscarded(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "seq 1 100000", func(l *wire.Launch) { l.Stdout, l.Stderr = wire.FIFO, wire.FIFO })
	if e := w.exits.of("p"); e.Code != 0 { // it would have blocked on a full pipe
		t.Errorf("exit %+v", e)
	}
	if err := w.ReopenLog(t.Context(), "p", w.logDir, "p.log"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a log that is not kept was reopened: %v", err)
	}
}

func TestReopeningLosesNoLine(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "seq 1 400000", w.logged)
	path := filepath.Join(w.logs, "p.log")
	var rotated []string
	for i := 0; ; i++ {
		old := fmt.Sprintf("p.log.%d", i)
		if err := os.Rename(path, filepath.Join(w.logs, old)); err != nil {
			t.Fatal(err)
		}
		rotated = append(rotated, old)
		err := w.ReopenLog(t.Context(), "p", w.logDir, "p.log")
		if errs.Is(err, errs.FailedPrecondition) { // it has ended
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if e := w.exits.of("p"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if len(rotated) < 3 {
		t.Errorf("only %d rotations happened", len(rotated))
	}
	if _, err := os.Stat(path); err == nil {
		rotated = append(rotated, "p.log")
	}
	n := 0
	for _, name := range rotated {
		for _, e := range w.entries(name) {
			if n++; e != fmt.Sprint("stdout F ", n) {
				t.Fatalf("%s: entry %q, want line %d", name, e, n)
			}
		}
	}
	if n != 400000 {
		t.Errorf("%d lines in %d files", n, len(rotated))
	}
}

func TestStdinEndsWhenItIsClosed(t *testing.T) {
	w := start(t, keeper.Options{})
	w.run(w.request("p", w.program([]string{"/bin/cat"}), w.logged, func(l *wire.Launch) { l.Stdin = wire.FIFO }))
	stdin, err := w.Stdin(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte("a line\nhalf a line")); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := w.Signal(t.Context(), "p", 0); err != nil {
		t.Fatal("it ended though its stdin is open: ", err)
	}
	for range 2 {
		if err := w.CloseStdin(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
	}
	if e := w.exits.of("p"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if got := fmt.Sprint(w.entries("p.log")); got != "[stdout F a line stdout P half a line]" {
		t.Errorf("log %v", got)
	}
	if _, err := w.Stdin(t.Context(), "p"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("stdin of an ended process: %v", err)
	}
}

func TestNullStdinIsAtItsEnd(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "cat && echo end", w.logged)
	w.exits.of("p")
	if got := fmt.Sprint(w.entries("p.log")); got != "[stdout F end]" {
		t.Errorf("log %v", got)
	}
}

func TestGivenStreamsAreUsed(t *testing.T) {
	w := start(t, keeper.Options{})
	if err := os.WriteFile(filepath.Join(w.dir, "in"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(name string, flags int) *linux.FD {
		f, err := linux.Open(filepath.Join(w.dir, name), flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	in, out, err := open("in", os.O_RDONLY), open("out", os.O_WRONLY|os.O_CREATE), open("err", os.O_WRONLY|os.O_CREATE)
	w.sh("p", "cat; echo oh >&2", func(l *wire.Launch) {
		l.Stdin, l.Stdout, l.Stderr = wire.Given, wire.Given, wire.Given
		l.FDs = append(l.FDs, wire.PassedFD{Role: wire.Stdin, FD: in}, wire.PassedFD{Role: wire.Stdout, FD: out}, wire.PassedFD{Role: wire.Stderr, FD: err})
	})
	w.exits.of("p")
	for name, want := range map[string]string{"out": "text", "err": "oh\n"} {
		if b, e := os.ReadFile(filepath.Join(w.dir, name)); e != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, e)
		}
	}
}

func TestANonRootProcessMayOpenItsStdout(t *testing.T) {
	w := start(t, keeper.Options{})
	if err := os.Chmod(w.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	user := func(b *launch.Builder) {
		b.Do("group", launch.Setresgid, 4321, 4321, 4321)
		b.Do("user", launch.Setresuid, 1234, 1234, 1234)
	}
	program := w.program([]string{"/bin/sh", "-c", "echo one > /proc/self/fd/1 && echo two > /dev/stderr && id -u"}, user)
	w.run(w.request("p", program, w.logged, func(l *wire.Launch) { l.StdioUID, l.StdioGID = 1234, 4321 }))
	if e := w.exits.of("p"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	got := fmt.Sprint(w.entries("p.log"))
	for _, want := range []string{"stdout F one", "stderr F two", "stdout F 1234"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in log %v", want, got)
		}
	}
}

func TestAStreamThatIsOpenedAgainIsReadOn(t *testing.T) {
	w := start(t, keeper.Options{})
	// It closes the only descriptor of its stdout and opens the FIFO again, as a daemon does that reopens its /dev/stdout.
	w.sh("p", "echo one; p=$(readlink /proc/$$/fd/1); exec 1>&-; read x < "+w.dir+"/gate; exec 1>$p; echo two", w.logged, w.gate)
	w.eventually("the first line is logged", func() bool { return len(w.entries("p.log")) == 1 })
	w.open("gate")
	w.exits.of("p")
	if got := fmt.Sprint(w.entries("p.log")); got != "[stdout F one stdout F two]" {
		t.Errorf("log %v", got)
	}
}

// gate makes a FIFO that a script can wait at until open.
func (w *world) gate(*wire.Launch) {
	w.t.Helper()
	if err := linux.Mkfifo(filepath.Join(w.dir, "gate"), 0, 0); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open(gate string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, gate), []byte("\n"), 0); err != nil {
		w.t.Fatal(err)
	}
}

func TestWhoeverHoldsAStreamAfterTheExitIsLoggedOn(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "(read x < "+w.dir+"/gate; printf 'late\\nlast') & echo first; printf half", w.logged, w.gate)
	if e := w.exits.of("p"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if got := fmt.Sprint(w.entries("p.log")); got != "[stdout F first]" { // the holder may still finish "half"
		t.Errorf("log %v", got)
	}
	w.open("gate")
	w.eventually("the holder's words are logged", func() bool { return len(w.entries("p.log")) == 3 })
	if got := fmt.Sprint(w.entries("p.log")); got != "[stdout F first stdout F halflate stdout P last]" {
		t.Errorf("log %v", got)
	}
}

func TestAHolderWhoNeverStopsDelaysNoExit(t *testing.T) {
	w := start(t, keeper.Options{})
	launched := w.sh("p", "exec 2>&-; yes & exit 3", w.logged)
	if e := w.exits.of("p"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	if err := w.Forget(t.Context(), "p"); err != nil { // stops reading
		t.Fatal(err)
	}
	syscall.Kill(-launched.PID, syscall.SIGKILL)
}

func TestAConsoleIsLoggedAsATerminalsText(t *testing.T) {
	w := start(t, keeper.Options{})
	devpts, err := linux.NewMount("devpts", 0, linux.Option{Key: "newinstance"}, linux.Option{Key: "ptmxmode", Value: "0666"})
	if err != nil {
		t.Fatal(err)
	}
	defer devpts.Close()
	master, slave, err := devpts.NewTerminal()
	if err != nil {
		t.Fatal(err)
	}
	w.sh("p", "echo one; echo two >&2; read x; echo got $x", func(l *wire.Launch) {
		l.Stdin, l.Stdout, l.Stderr, l.Log = wire.Given, wire.Given, wire.Given, &wire.Log{Base: "p.log"}
		l.FDs = append(l.FDs, wire.PassedFD{Role: wire.LogDir, FD: w.logDir}, wire.PassedFD{Role: wire.Console, FD: master},
			wire.PassedFD{Role: wire.Stdin, FD: slave}, wire.PassedFD{Role: wire.Stdout, FD: slave}, wire.PassedFD{Role: wire.Stderr, FD: slave})
	})
	master.Close()
	slave.Close()
	console, err := w.Console(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	if _, err := console.Write([]byte("it\n")); err != nil {
		t.Fatal(err)
	}
	w.exits.of("p")
	got := fmt.Sprint(w.entries("p.log"))
	for _, want := range []string{"stdout F one", "stdout F two", "stdout F got it"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if strings.Contains(got, "\r") || strings.Contains(got, "stderr") {
		t.Errorf("log %q", got)
	}
}

func TestAFullDiskStopsNobody(t *testing.T) {
	w := start(t, keeper.Options{})
	disk, err := linux.NewMount("tmpfs", 0, linux.Option{Key: "size", Value: "64k"})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	w.sh("p", "seq 1 100000; read x < "+w.dir+"/gate; echo end", w.gate, w.logged, func(l *wire.Launch) {
		l.FDs[len(l.FDs)-1].FD = disk
	})
	full := func(name string) int64 {
		f, err := disk.OpenBeneath(name, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := os.Stat(f.Path())
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	w.eventually("the disk is full", func() bool { return full("p.log") > 60<<10 })
	// The rest comes while the disk is full or after it was replaced; "end" comes after.
	if err := w.ReopenLog(t.Context(), "p", w.logDir, "p.log"); err != nil {
		t.Fatal(err)
	}
	w.open("gate")
	e := w.exits.of("p")
	if e.Code != 0 || e.LogDropped == 0 {
		t.Errorf("exit %+v", e)
	}
	got := w.entries("p.log")
	want := fmt.Sprintf("stderr F fermata: %d bytes of log lost: no space left on device", e.LogDropped)
	if got[0] != want || got[len(got)-1] != "stdout F end" {
		t.Errorf("log begins with %q, want %q, and ends with %q", got[0], want, got[len(got)-1])
	}
}
