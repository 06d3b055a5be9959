package launch

import (
	"encoding/binary"

	"fermata/internal/errs"
)

// How a program lies in the new process's memory, and in the file that is mapped there. The stages in stage_*.s know these numbers.
//
//	programBase + 0    magic: "fermata", then version and architecture in one byte
//	            + 8    address of the first op
//	            + 64   slots, 256 of 8 bytes
//	            + 2112 data: strings, vectors, structures; then, aligned to 16, the ops, each:
//
//	0   int32 number of the call        4   uint32 flags
//	8   arguments, six of 8 bytes       56  slot to save the result in, 0 for none
//	64  a set of errnos, 192 bits       88  address of the op after one of those
//	96  of the op after another error, or 0: report it and end
//	104 of the op after zero            112 of the op after any other result
//	120 index of the builder's op, for the report
//
// Bits 0 to 5 of the flags: that argument is the number of a slot, whose value is meant. Bit 6: no call, the result is
// argument 0 less argument 1. Every result is saved in slot 0 as well. Slot 1 counts the tries left of an op that is retried: the only place
// where a program goes back.
const (
	programBase = 0x10000000                // far from the stage at 0x400000; aligned to every page size
	magicBase   = 0x00_61_74_61_6d_72_65_66 // "fermata", little endian
	version     = 1

	headerSize = 64
	slotCount  = 256
	dataStart  = headerSize + 8*slotCount
	opSize     = 128

	flagNoCall = 1 << 6
)

func magic(a Arch) uint64 { return magicBase | uint64(version<<4|uint64(a))<<56 }

func slotAddress(s Slot) uint64 { return programBase + headerSize + 8*uint64(s) }

// emitted is an op as performed. A builder's op becomes one, and one more for each further rule about its errors: a test of the last
// result. A retried op becomes two such with a counter around the first.
type emitted struct {
	op      *Op
	index   int // of op in the builder
	fixed   *Op // performed instead of op, if not nil: a test or the counter
	errors  errnoSet
	onError int // index among the emitted, as are the rest
	onRest  int // -1: report
	onZero  int
	onOther int
}

var (
	testOp  = &Op{call: none, args: [6]argument{{kind: argSlot, value: 0}}}
	countOp = &Op{call: none, args: [6]argument{{kind: argSlot, value: uint64(retrySlot)}, {value: 1}}, save: retrySlot}
)

// Program ends the building: it fixes every jump, checks every bound and returns the program. The error is the first mistake
// made since NewBuilder, of kind errs.InvalidArgument.
func (b *Builder) Program() (*Program, error) {
	if b.err != nil {
		return nil, b.err
	}
	first := make([]int, len(b.ops)+1) // builder's index → index of the first emitted op
	total := 0
	for i, o := range b.ops {
		first[i] = total
		total += o.width()
	}
	first[len(b.ops)] = total
	if total >= maxOps {
		return nil, errs.New(errs.InvalidArgument, "launch program: over %d ops", maxOps)
	}
	list := make([]emitted, 0, total+1)
	for i := range b.ops {
		var err error
		if list, err = b.emit(list, i, first); err != nil {
			return nil, err
		}
	}
	return b.assemble(append(list, b.end()))
}

// end is what a program runs into that lacks execve or exit_group: an op that fails.
func (b *Builder) end() emitted {
	const enosys = 38
	o := &Op{b: b, name: "end of program", call: none}
	o.args[0] = argument{value: ^uint64(enosys - 1)}
	return emitted{op: o, index: len(b.ops), onRest: -1}
}

// width is how many ops o becomes.
func (o *Op) width() int {
	if o.retries == 0 {
		return chain(o.handlers)
	}
	return 1 + chain(o.retried()) + 1 + chain(o.handlers)
}

// chain is how many ops a call with these rules becomes.
func chain(rules []handler) int {
	n := len(rules)
	if n > 0 && rules[n-1].rest { // what follows an error outside the last op's set: no op of its own
		n--
	}
	return max(1, n)
}

// retried are the rules of all tries but the last: the first sends to the counter.
func (o *Op) retried() []handler {
	rules := []handler{{on: o.retryOn}}
	for _, h := range o.handlers {
		h.on = h.on.minus(o.retryOn)
		if h.rest || h.on != (errnoSet{}) {
			rules = append(rules, h)
		}
	}
	return rules
}

// emit appends what the builder's op i becomes.
func (b *Builder) emit(list []emitted, i int, first []int) ([]emitted, error) {
	o := b.ops[i]
	if o.retries == 0 {
		return b.emitCall(list, i, o.handlers, first, -1)
	}
	start := len(list)
	set := &Op{call: none, args: [6]argument{{value: uint64(o.retries)}}, save: retrySlot}
	list = append(list, emitted{op: o, index: i, fixed: set, onRest: -1, onOther: start + 1})
	rules := o.retried()
	counter := start + 1 + chain(rules)
	list, err := b.emitCall(list, i, rules, first, counter)
	if err != nil {
		return nil, err
	}
	list = append(list, emitted{op: o, index: i, fixed: countOp, onRest: -1, onOther: start + 1, onZero: counter + 1})
	return b.emitCall(list, i, o.handlers, first, -1)
}

// emitCall appends one op's call and the tests that its rules need. If counter is not negative it is where the first rule goes.
func (b *Builder) emitCall(list []emitted, i int, rules []handler, first []int, counter int) ([]emitted, error) {
	zero, err := b.resolve(i, b.ops[i].onZero, first)
	if err != nil {
		return nil, err
	}
	other, err := b.resolve(i, b.ops[i].onOther, first)
	if err != nil {
		return nil, err
	}
	e := emitted{op: b.ops[i], index: i, onZero: zero, onOther: other, onRest: -1}
	for n, r := range rules {
		to := counter
		if n > 0 || counter < 0 {
			if to, err = b.resolve(i, r.to, first); err != nil {
				return nil, err
			}
		}
		if r.rest {
			e.onRest = to
			break
		}
		if n > 0 { // this op has its one rule: the next is a test's
			e.onRest = len(list) + 1
			list = append(list, e)
			e = emitted{op: b.ops[i], index: i, fixed: testOp, onRest: -1}
		}
		e.errors, e.onError = r.on, to
	}
	return append(list, e), nil
}

// resolve returns the emitted index of a target of the builder's op i.
func (b *Builder) resolve(i int, t target, first []int) (int, error) {
	to := i + 1 + t.skip
	if t.label != 0 {
		if to = b.labels[t.label-1]; to < 0 {
			return 0, errs.New(errs.InvalidArgument, "launch op %d (%s): jumps to a label that is nowhere", i, b.ops[i].name)
		}
	}
	switch {
	case to <= i:
		return 0, errs.New(errs.InvalidArgument, "launch op %d (%s): jumps back to op %d", i, b.ops[i].name, to)
	case to >= len(b.ops) && !t.next():
		return 0, errs.New(errs.InvalidArgument, "launch op %d (%s): jumps out of the program", i, b.ops[i].name)
	}
	return first[to], nil
}

// assemble writes the image.
func (b *Builder) assemble(list []emitted) (*Program, error) {
	ops := (len(b.data) + 15) &^ 15
	if ops+len(list)*opSize > maxImage {
		return nil, errs.New(errs.InvalidArgument, "launch program: over %d bytes", maxImage)
	}
	image := make([]byte, ops+len(list)*opSize)
	copy(image, b.data)
	le := binary.LittleEndian
	le.PutUint64(image, magic(b.arch))
	le.PutUint64(image[8:], programBase+uint64(ops))
	address := func(i int) uint64 { return programBase + uint64(ops+i*opSize) }
	for i, e := range list {
		at := image[ops+i*opSize:][:opSize]
		e.write(at, b.arch)
		le.PutUint64(at[88:], address(e.onError))
		if e.onRest >= 0 {
			le.PutUint64(at[96:], address(e.onRest))
		}
		le.PutUint64(at[104:], address(e.onZero))
		le.PutUint64(at[112:], address(e.onOther))
	}
	return &Program{arch: b.arch, image: image, ops: append(b.ops[:len(b.ops):len(b.ops)], list[len(list)-1].op), labels: b.labels, blocks: b.blocks}, nil
}

// write writes all of an op but where it goes on.
func (e *emitted) write(at []byte, arch Arch) {
	o := e.op
	if e.fixed != nil {
		o = e.fixed
	}
	le := binary.LittleEndian
	number, flags := callTable[o.call].number[arch], uint32(0)
	if o.call == none {
		flags |= flagNoCall
	}
	le.PutUint32(at, uint32(number))
	for i, a := range o.args {
		if a.kind == argSlot {
			flags |= 1 << i
		}
		le.PutUint64(at[8+8*i:], a.value)
	}
	le.PutUint32(at[4:], flags)
	le.PutUint64(at[56:], uint64(o.save))
	for i, w := range e.errors {
		le.PutUint64(at[64+8*i:], w)
	}
	le.PutUint64(at[120:], uint64(e.index))
}
