package keeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/keeper"
	"fermata/internal/keeper/wire"
)

// logFiles are a log's, the oldest first, and their length in all.
func (w *world) logFiles(base string) (names []string, size int64) {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.logs, base+"*")) // sorted: the current one is the first
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range found {
		if fi, err := os.Stat(path); err == nil { // else it was removed meanwhile
			size += fi.Size()
			names = append(names, filepath.Base(path))
		}
	}
	if len(names) > 0 {
		names = append(names[1:], names[0])
	}
	return names, size
}

func TestALogKeepsBelowItsCeiling(t *testing.T) {
	const ceiling, lines = 1 << 20, 1_000_000
	w := start(t, keeper.Options{})
	limited := func(l *wire.Launch) { l.Log.MaxSize, l.Log.MaxFiles = ceiling, 3 }
	w.sh("p", fmt.Sprintf("seq %d; read x < %s/gate; echo end", lines, w.dir), w.logged, w.gate, limited)
	var most int64
	w.eventually("all is written", func() bool {
		names, size := w.logFiles("p.log")
		most = max(most, size)
		b, _ := os.ReadFile(filepath.Join(w.logs, names[len(names)-1]))
		return strings.HasSuffix(string(b), fmt.Sprintf(" %d\n", lines))
	})
	if most > 3*ceiling {
		t.Errorf("the log took %d bytes, at most %d were allowed", most, 3*ceiling)
	}
	names, _ := w.logFiles("p.log")
	if len(names) != 3 {
		t.Fatalf("files %v", names)
	}
	var all []string
	for _, name := range names {
		all = append(all, w.entries(name)...) // each of whole lines
	}
	for i, entry := range all {
		if want := fmt.Sprintf("stdout F %d", lines-len(all)+i+1); entry != want {
			t.Fatalf("line %d of %d is %q, want %q", i, len(all), entry, want)
		}
	}
	if len(all) < 20000 {
		t.Errorf("only %d lines are left", len(all))
	}
	// The kubelet, which looks only now and then, may ask for a new file all the same.
	if err := w.ReopenLog(t.Context(), "p", w.logDir, "p.log"); err != nil {
		t.Error(err)
	}
	w.open("gate")
	if e := w.exits.of("p"); e.Code != 0 || e.LogDropped != 0 {
		t.Errorf("exit %+v", e)
	}
	if got := w.entries("p.log"); got[len(got)-1] != "stdout F end" {
		t.Errorf("the last line is %q", got[len(got)-1])
	}
}

func TestALogGrowsNoFasterThanItsRate(t *testing.T) {
	const rate, lines = 100_000, 50_000
	w := start(t, keeper.Options{})
	w.sh("p", fmt.Sprintf("seq %d; read x < %s/gate; echo end", lines, w.dir), w.logged, w.gate, func(l *wire.Launch) { l.Log.Rate = rate })
	w.open("gate") // whatever it is that the disk takes, the process does not wait
	e := w.exits.of("p")
	if e.Code != 0 || e.LogDropped == 0 {
		t.Errorf("exit %+v", e)
	}
	marked, whole := 0, 0
	for _, entry := range w.entries("p.log") {
		var lost int
		if n, _ := fmt.Sscanf(entry, "stderr F fermata: %d bytes of log lost: written faster", &lost); n == 1 {
			marked += lost
		} else {
			whole += len(entry) - len("stdout F ") + len("2006-01-02T15:04:05.000000000Z stdout F \n")
		}
	}
	if uint64(marked) != e.LogDropped {
		t.Errorf("%d bytes are marked as lost, %d were", marked, e.LogDropped)
	}
	total := len("2006-01-02T15:04:05.000000000Z stdout F \n")*(lines+1) + len("end")
	for i := range lines {
		total += len(fmt.Sprint(i + 1))
	}
	if whole+marked != total {
		t.Errorf("%d bytes are logged and %d marked, in all %d, want %d", whole, marked, whole+marked, total)
	}
}
