package launch

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// model performs a program's image as layout.go says the stages do: what they are compared with, and the oracle of the fuzzer.
type model struct {
	image []byte // changed: the slots
	arch  Arch
	// result is what a call returns.
	result func(number int32, args [6]uint64) int64
	steps  int
	// failed, if the program failed
	failed  bool
	op      int64
	errno   int64
	problem error // a rule of the layout broken
}

func (m *model) word(at uint64) uint64 {
	if at%8 != 0 || at < programBase || at+8 > programBase+uint64(len(m.image)) {
		m.problem = fmt.Errorf("address %#x is not in the program", at)
		return 0
	}
	return binary.LittleEndian.Uint64(m.image[at-programBase:])
}

func (m *model) slot(i uint64) []byte { return m.image[headerSize+8*i:][:8] }

// run performs ops until one fails, the result function says stop (errno 4096), or a rule is broken.
func (m *model) run() {
	if m.word(programBase) != magic(m.arch) {
		m.problem = fmt.Errorf("no magic")
		return
	}
	first := m.word(programBase + 8)
	for at := first; m.problem == nil; m.steps++ {
		if at < first || (at-first)%opSize != 0 || at+opSize > programBase+uint64(len(m.image)) {
			m.problem = fmt.Errorf("op address %#x is outside", at)
			return
		}
		next := m.step(at)
		if m.failed || m.problem != nil || next == 0 {
			return
		}
		if next <= at && !m.counts(at) {
			m.problem = fmt.Errorf("op %#x goes back to %#x", at, next)
		}
		at = next
	}
}

// counts reports whether an op is the counter of a retry, the only one that may go back: it counts down to zero.
func (m *model) counts(at uint64) bool {
	op := m.image[at-programBase:][:opSize]
	return m.word(at) == 0x41_ffffffff && m.word(at+8) == 1 && m.word(at+16) == 1 && op[56] == 1 &&
		int64(binary.LittleEndian.Uint64(m.slot(1))) <= maxRetry
}

// step performs one op and returns the next one's address, 0 to stop.
func (m *model) step(at uint64) uint64 {
	op := m.image[at-programBase:][:opSize]
	le := binary.LittleEndian
	flags := le.Uint32(op[4:])
	var args [6]uint64
	for i := range args {
		args[i] = le.Uint64(op[8+8*i:])
		if flags&(1<<i) != 0 {
			if args[i] >= slotCount {
				m.problem = fmt.Errorf("slot %d", args[i])
				return 0
			}
			args[i] = le.Uint64(m.slot(args[i]))
		}
	}
	result := int64(args[0] - args[1])
	if flags&flagNoCall == 0 {
		result = m.result(int32(le.Uint32(op)), args)
		if result == -4096 {
			return 0
		}
	}
	save := le.Uint64(op[56:])
	if save >= slotCount {
		m.problem = fmt.Errorf("saves in slot %d", save)
		return 0
	}
	le.PutUint64(m.slot(save), uint64(result))
	le.PutUint64(m.slot(0), uint64(result))
	errno := -result
	switch {
	case errno >= 1 && errno <= 4095:
		if errno < 192 && le.Uint64(op[64+8*(errno/64):])>>(errno%64)&1 != 0 {
			return le.Uint64(op[88:])
		}
		rest := le.Uint64(op[96:])
		if rest == 0 {
			m.failed, m.op, m.errno = true, int64(le.Uint64(op[120:])), errno
		}
		return rest
	case result == 0:
		return le.Uint64(op[104:])
	}
	return le.Uint64(op[112:])
}

// slots returns all slots.
func (m *model) slots() []byte { return bytes.Clone(m.image[headerSize:dataStart]) }
