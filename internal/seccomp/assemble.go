package seccomp

import (
	"encoding/binary"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Classic BPF, <linux/filter.h>: the opcodes used. A is the accumulator.
const (
	opLoad    = 0x20 // A = word of struct seccomp_data at k
	opAnd     = 0x54 // A &= k
	opGoto    = 0x05 // skip k
	opEqual   = 0x15 // A == k ? skip jt : skip jf
	opAbove   = 0x25 // A > k
	opAtLeast = 0x35 // A >= k
	opReturn  = 0x06 // return k
)

// Offsets in struct seccomp_data. Arguments are 64 bits; the machines fermata runs on have the lower half first.
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16
)

func atLow(arg uint) uint32  { return atArgs + 8*uint32(arg) }
func atHigh(arg uint) uint32 { return atLow(arg) + 4 }

// instruction is struct sock_filter.
type instruction struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

// label is a place in the program: the number of instructions from there to the end, itself included.
type label int

// assembler builds a program from its end to its beginning. All jumps of BPF go forward, so a jump's targets are always there already,
// and distances are known when it is made.
type assembler struct {
	reversed []instruction
	returns  map[verdict]label
}

func (a *assembler) here() label { return label(len(a.reversed)) }

func (a *assembler) emit(i instruction) label {
	a.reversed = append(a.reversed, i)
	return a.here()
}

func (a *assembler) load(offset uint32) label { return a.emit(instruction{op: opLoad, k: offset}) }

// maxSkip is how far a conditional jump reaches.
const maxSkip = 255

// verdict returns a place that returns v: an earlier one that most jumps will reach, or a new one.
func (a *assembler) verdict(v verdict) label {
	const near = 200
	if l, ok := a.returns[v]; ok && a.here()-l < near {
		return l
	}
	l := a.emit(instruction{op: opReturn, k: uint32(v)})
	a.returns[v] = l
	return l
}

// branch emits a conditional jump. A target beyond its reach gets an unconditional jump next to it.
func (a *assembler) branch(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return a.goTo(yes)
	}
	for {
		t, f := a.here()-yes, a.here()-no
		switch {
		case t > maxSkip:
			yes = a.emit(instruction{op: opGoto, k: uint32(t)})
		case f > maxSkip:
			no = a.emit(instruction{op: opGoto, k: uint32(f)})
		default:
			return a.emit(instruction{op: op, jt: uint8(t), jf: uint8(f), k: k})
		}
	}
}

// goTo makes the program continue at a place, by a jump if it is not the very next.
func (a *assembler) goTo(l label) label {
	if l == a.here() {
		return l
	}
	return a.emit(instruction{op: opGoto, k: uint32(a.here() - l)})
}

// condition emits a test of one 64-bit argument: the upper half first, the lower where the upper does not decide.
func (a *assembler) condition(c specs.LinuxSeccompArg, yes, no label) label {
	low, high := uint32(c.Value), uint32(c.Value>>32)
	switch c.Op {
	case specs.OpNotEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpEqualTo:
		a.branch(opEqual, low, yes, no)
		l := a.load(atLow(c.Index))
		a.branch(opEqual, high, l, no)
	case specs.OpMaskedEqual: // argument & Value == ValueTwo
		a.branch(opEqual, uint32(c.ValueTwo), yes, no)
		a.emit(instruction{op: opAnd, k: low})
		l := a.load(atLow(c.Index))
		a.branch(opEqual, uint32(c.ValueTwo>>32), l, no)
		a.emit(instruction{op: opAnd, k: high})
	default: // < is not ≥, ≤ is not >
		op := uint16(opAbove)
		if c.Op == specs.OpGreaterEqual || c.Op == specs.OpLessThan {
			op = opAtLeast
		}
		if c.Op == specs.OpLessThan || c.Op == specs.OpLessEqual {
			yes, no = no, yes
		}
		a.branch(op, low, yes, no)
		l := a.load(atLow(c.Index))
		l = a.branch(opEqual, high, l, no)
		a.branch(opAbove, high, yes, l)
	}
	return a.load(atHigh(c.Index))
}

// program returns the instructions in their order, as an array of struct sock_filter in the machine's byte order.
func (a *assembler) program() []byte {
	b := make([]byte, 0, 8*len(a.reversed))
	for _, i := range slices.Backward(a.reversed) {
		b = binary.NativeEndian.AppendUint16(b, i.op)
		b = append(b, i.jt, i.jf)
		b = binary.NativeEndian.AppendUint32(b, i.k)
	}
	return b
}
