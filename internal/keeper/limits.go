package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fermata/internal/linux"
	"fermata/internal/logs"
)

// rotatedForm is the time after a rotated log's name and a dot. The kubelet's own has no fraction; a log may fill up many times a second, and the names sort alike.
const rotatedForm = "20060102-150405.000000000"

// defaultFiles is how many files a log with a ceiling may have, the one written to included, where nothing is said.
const defaultFiles = 3

// limits are what a log may take. The reader of the log alone uses it, holding output.writing.
type limits struct {
	heldLog
	// budget is how many bytes may be written now, as of then; with fractions, which is all that there is for the moment between two batches.
	budget float64
	then   time.Time
}

// allows takes n bytes from the budget: the rate's of one second at most, and one batch whatever its size. Without a rate all is allowed.
func (l *limits) allows(n int, now time.Time) bool {
	if l.Rate <= 0 {
		return true
	}
	if l.then.IsZero() {
		l.budget = float64(l.Rate)
	} else if gone := now.Sub(l.then); gone > 0 {
		l.budget += gone.Seconds() * float64(l.Rate)
	}
	l.budget, l.then = min(l.budget, float64(l.Rate)), now
	if l.budget <= 0 {
		return false
	}
	l.budget -= float64(n)
	return true
}

// limit makes room for entries: it rotates the log where they would lift it over its ceiling, and reports whether they are to be written at all. The caller holds
// o.writing.
func (o *output) limit(entries []byte, now time.Time) bool {
	if o.limits == nil {
		return true
	}
	if !o.limits.allows(len(entries), now) {
		return false
	}
	size := o.writer.Size()
	if o.limits.MaxSize <= 0 || size == 0 || size+int64(len(entries)) <= o.limits.MaxSize {
		return true
	}
	if err := o.rotate(); err != nil { // it grows on: better a large log than none
		o.server.o.warn(err)
	}
	return true
}

// rotate gives the log's file another name and goes on in a new one; the oldest go first, so that there are never more than the ceiling allows.
func (o *output) rotate() error {
	dir, err := linux.OpenDir(o.limits.Dir)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	defer dir.Close()
	base := filepath.Join(o.limits.Dir, o.limits.Base)
	files := o.limits.MaxFiles
	if files <= 0 {
		files = defaultFiles
	}
	if err := o.prune(max(files-2, 0)); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	aside := base + "." + time.Now().UTC().Format(rotatedForm) // not the batch's time, in which a log of short lines may fill up twice
	if files == 1 {
		err = os.Remove(base)
	} else {
		err = os.Rename(base, aside)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // moved away by somebody else who has not asked for a new one yet
		return fmt.Errorf("rotate log: %w", err)
	}
	file, err := logs.OpenFile(dir, o.limits.Base)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	o.writer.Reopen(file)
	o.noteFile(file)
	return nil
}

// prune removes all but the newest rotated files.
func (o *output) prune(keep int) error {
	entries, err := os.ReadDir(o.limits.Dir)
	if err != nil {
		return err
	}
	var old []string
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), o.limits.Base+".") {
			old = append(old, e.Name())
		}
	}
	slices.Sort(old)
	for _, name := range old[:max(len(old)-keep, 0)] {
		if err := os.Remove(filepath.Join(o.limits.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
