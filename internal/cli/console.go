package cli

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// Console is the terminal that a person sits at.
type Console struct{ file *os.File }

// NewConsole returns the terminal that f is, nil if it is none.
func NewConsole(f *os.File) *Console {
	if !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &Console{f}
}

// raw has every key passed on as it is, Ctrl-C too, until restore is called.
func (c *Console) raw() (restore func(), err error) {
	before, err := term.MakeRaw(int(c.file.Fd()))
	if err != nil {
		return nil, err
	}
	return func() {
		_ = term.Restore(int(c.file.Fd()), before) // refused when the terminal is gone
	}, nil
}

// size is in characters; 0, 0 for one that does not say.
func (c *Console) size() (columns, rows int) {
	columns, rows, err := term.GetSize(int(c.file.Fd()))
	if err != nil {
		return 0, 0
	}
	return columns, rows
}

// resized tells of every change of size until stop is called.
func (c *Console) resized() (changes <-chan os.Signal, stop func()) {
	all := make(chan os.Signal, 1)
	signal.Notify(all, syscall.SIGWINCH)
	return all, func() { signal.Stop(all); close(all) }
}
