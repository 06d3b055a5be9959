// Package report decodes what a launched process writes into its report pipe. It knows the 16 bytes and nothing of programs: the
// keeper, which reads them, sees neither a program's names nor package launch.
//
//	stage ──► keeper: {int64 1, int64 PID}        the process to watch is PID: cloned by the program, a child of the keeper
//	stage ──► keeper: {int64 -errno, int64 op}    op failed, the process ends with status 125; op -1: before the program
//	end of file                                   without a failure: the target runs
//
// Both are little endian. There is at most one PID; both processes of a clone may fail, in any order: the first failure counts.
package report

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// Size is the length of a message.
const Size = 16

// ExitStatus is the exit status of a stage that reported a failure.
const ExitStatus = 125

const (
	kindPID = 1
	longest = 3 * Size
)

// Report is all that a launch said until its end of file.
type Report struct {
	// PID is the process that the launch cloned, in the keeper's PID namespace; 0 if the launched process is itself the one.
	PID int
	// Failed says that an op failed: Op with Errno. Op -1 is the mapping of the program.
	Failed bool
	Op     int
	Errno  syscall.Errno
}

// ErrMalformed is wrapped by the errors about bytes that no stage writes.
var ErrMalformed = errors.New("malformed launch report")

// Read reads a report up to its end of file: until the target runs or the launch failed.
func Read(r io.Reader) (Report, error) {
	var buf [longest + 1]byte // one more than the longest: nothing is read without end
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			return Report{}, err
		}
	}
	return Decode(buf[:n])
}

// Decode decodes a whole report.
func Decode(data []byte) (Report, error) {
	var rep Report
	if len(data)%Size != 0 || len(data) > longest {
		return rep, fmt.Errorf("%w: %d bytes", ErrMalformed, len(data))
	}
	for ; len(data) > 0; data = data[Size:] {
		kind := int64(binary.LittleEndian.Uint64(data))
		value := int64(binary.LittleEndian.Uint64(data[8:]))
		switch {
		case kind == kindPID && rep.PID == 0 && value > 0 && value <= 1<<22: // PID_MAX_LIMIT
			rep.PID = int(value)
		case kind < 0 && kind >= -4095 && value >= -1 && value < 1<<20:
			if !rep.Failed {
				rep.Failed, rep.Op, rep.Errno = true, int(value), syscall.Errno(-kind)
			}
		default:
			return Report{}, fmt.Errorf("%w: kind %d, value %d", ErrMalformed, kind, value)
		}
	}
	return rep, nil
}
