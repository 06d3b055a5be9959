package launch

import (
	"fmt"
	"syscall"

	"fermata/internal/linux"
)

// Program is a finished launch program. It does not change any more and may be used many times, also at once.
type Program struct {
	arch   Arch
	image  []byte
	ops    []*Op // the last is the end, which the builder does not know
	labels []int
	blocks []block
}

// Image returns the contents of the program's memory; the caller must not change them.
func (p *Program) Image() []byte { return p.image }

// Memory returns the program as a sealed, not executable memory file, to be descriptor ProgramFD of the new process.
func (p *Program) Memory() (*linux.FD, error) { return linux.SealedMemory("fermata-program", p.image) }

// Failure says what a report of this program means: `op 129 (mask /proc/kcore): no such file or directory`. The errno stays askable
// (errors.Is). Op -1 is the stage itself, before the program ran.
func (p *Program) Failure(op int, errno syscall.Errno) error {
	switch {
	case op == -1:
		return fmt.Errorf("map launch program: %w", errno)
	case op < -1 || op >= len(p.ops):
		return fmt.Errorf("op %d (not in the program): %w", op, errno)
	}
	return fmt.Errorf("op %d (%s): %w", op, p.ops[op].name, errno)
}

// Len returns the number of ops, as failures and the listing count them.
func (p *Program) Len() int { return len(p.ops) - 1 }

// OpName returns the name of an op, "" if there is none.
func (p *Program) OpName(op int) string {
	if op < 0 || op >= p.Len() {
		return ""
	}
	return p.ops[op].name
}
