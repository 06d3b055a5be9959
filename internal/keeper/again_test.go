package keeper_test

import (
	"maps"
	"syscall"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/keeper"
	"fermata/internal/keeper/wire"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

// inodes are the namespaces that are held, by kind.
func (w *world) inodes(id string) map[string]uint64 {
	w.t.Helper()
	held, err := w.Namespaces(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]uint64{}
	for kind, fd := range held {
		if found[kind], err = fd.Inode(); err != nil {
			w.t.Error(err)
		}
		fd.Close()
	}
	return found
}

func TestAPauseTakesThePlaceOfOneThatEnded(t *testing.T) {
	w := start(t, keeper.Options{})
	asPause := func(l *wire.Launch) { l.Kind, l.CloneFlags = wire.Pause, linux.CloneNewUTS }
	w.sh("p", "exec sleep 1000", asPause)
	again := func(program *linux.FD) *wire.Launch {
		return w.request("p", program, func(l *wire.Launch) { l.Kind, l.Again = wire.Pause, true })
	}
	before := w.inodes("p")
	if _, err := w.Launch(t.Context(), again(w.program([]string{"/bin/true"}))); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("while it runs: %v", err)
	}
	if err := w.Signal(t.Context(), "p", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := w.exits.of("p"); e.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v", e)
	}
	if now := w.inodes("p"); !maps.Equal(before, now) {
		t.Errorf("with its end the namespaces became %v, were %v", now, before)
	}
	if _, err := w.Launch(t.Context(), again(w.program([]string{"/none"}))); launchFailure(err) == nil {
		t.Errorf("a command that is not there: %v", err)
	}
	if now := w.inodes("p"); !maps.Equal(before, now) {
		t.Errorf("after a launch that failed the namespaces are %v, were %v", now, before)
	}
	held, err := w.Namespaces(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	enter := func(b *launch.Builder) { b.Do("enter", launch.Setns, launch.FirstFD, linux.CloneNewUTS) }
	l := again(w.program([]string{"/bin/sleep", "1000"}, enter))
	l.FDs = append(l.FDs, wire.PassedFD{Role: wire.Child, FD: held["uts"]})
	w.run(l)
	for _, fd := range held {
		fd.Close()
	}
	if now := w.inodes("p"); now["uts"] != before["uts"] {
		t.Errorf("the namespaces are %v, were %v", now, before)
	}
	processes, err := w.Processes(t.Context())
	if err != nil || len(processes) != 1 || processes[0].Exit != nil {
		t.Errorf("listed %+v, %v", processes, err)
	}
	if exists(t, w.o.State, "exits", "p") || !exists(t, w.o.State, "processes", "p") {
		t.Error("the records are not those of the one that runs")
	}
	w.sh("c", "exec sleep 1000")
	if _, err := w.Launch(t.Context(), w.request("c", w.program([]string{"/bin/true"}), func(l *wire.Launch) { l.Again = true })); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a container: %v", err)
	}
}
