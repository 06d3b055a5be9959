package cli

import (
	"errors"
	"fmt"
	"io"
	"sync"

	fermatav1 "fermata/api/fermata/v1"
)

// input gives this process's own input to a session: what is typed, and how large the terminal is.
type input struct {
	mu   sync.Mutex // a stream has one sender at a time
	send func(*fermatav1.Input) error
}

func (i *input) give(m *fermatav1.Input) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.send(m)
}

// bytes gives what is read, and its end. An error of reading is returned; one of giving is the session's, which ends with its own.
func (i *input) bytes(from io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && i.give(&fermatav1.Input{Input: &fermatav1.Input_Data{Data: buf[:n]}}) != nil {
			return nil
		}
		if errors.Is(err, io.EOF) {
			i.give(&fermatav1.Input{Input: &fermatav1.Input_End{End: true}})
			return nil
		}
		if errors.Is(err, errDetached) {
			return err
		}
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
	}
}

// size gives the terminal's size.
func (i *input) size(columns, rows int) {
	i.give(&fermatav1.Input{Input: &fermatav1.Input_Size{Size: terminalSize(columns, rows)}})
}

// sizes gives every new size of a terminal, until stop is called.
func (i *input) sizes(c *Console) (stop func()) {
	changes, stop := c.resized()
	go func() {
		for range changes {
			i.size(c.size())
		}
	}()
	return stop
}

func terminalSize(columns, rows int) *fermatav1.TerminalSize {
	if columns <= 0 || rows <= 0 {
		return nil
	}
	return &fermatav1.TerminalSize{Columns: uint32(columns), Rows: uint32(rows)}
}
