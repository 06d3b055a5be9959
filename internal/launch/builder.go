package launch

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"fermata/internal/errs"
)

// Descriptors of a launched process. 0, 1 and 2 are its stdio; the files passed follow in order from FirstFD.
const (
	ReportFD  = 3 // write end of the report pipe, package report
	ProgramFD = 4 // the program's memory
	FirstFD   = 5
)

// Bounds of a program.
const (
	// MaxString is the longest argument or environment string the kernel takes (MAX_ARG_STRLEN without its NUL), in bytes.
	MaxString = 131071
	// MaxPath is the longest string that an op may be given directly: a path (PATH_MAX without its NUL), in bytes.
	MaxPath = 4095

	maxImage = 8 << 20 // arguments and environment end at 6 MiB anyway, execve(2)
	maxOps   = 8192
	maxRetry = 128 // as openat2(2) is retried elsewhere
)

// Slot holds the result of an op for later ones. Slots start at zero; an op that failed saves its negative errno. Slots 0 (the last
// result) and 1 (tries left) are the builder's.
type Slot uint8

const (
	retrySlot Slot = 1
	firstSlot      = 2
	maxSlot        = slotCount - 1
)

// Address is a place in the program's memory, as the new process sees it: what [Builder.Bytes] and its kin return.
type Address uint64

// Label is a place later in the program, to be jumped to. Make it with [Builder.NewLabel], fix it with [Builder.Place].
type Label struct{ n int }

// Builder compiles one program. Mistakes (bad arguments, bounds) are remembered and reported by [Builder.Program], so that a
// program reads as a plain list. It is not safe for concurrent use.
type Builder struct {
	arch   Arch
	ops    []*Op
	block  []Op // ops are allocated by the block
	data   []byte
	blocks []block // of data, in order, for the listing and for checks
	labels []int   // index of the op a label stands before, -1 until placed
	slots  int
	empty  Address // of ""
	doing  string  // name of the op being added, for mistakes in its data
	err    error   // the first mistake
}

// NewBuilder begins a program. Its op 0 marks every descriptor but 0, 1 and 2 close-on-exec (close_range, Linux 5.11).
func NewBuilder(arch Arch) *Builder {
	b := &Builder{arch: arch, slots: firstSlot, data: make([]byte, dataStart, 16<<10)}
	if arch >= arches {
		b.fail("builder", "no architecture %d", uint8(arch))
		b.arch = AMD64
	}
	b.empty = b.append([]byte{0}, 1)
	b.Do("close the rest on exec", CloseRange, 3, uint32(0xffffffff), closeRangeCloexec)
	return b
}

const closeRangeCloexec = 1 << 2

// fail remembers the first mistake.
func (b *Builder) fail(where, format string, args ...any) {
	if b.doing != "" {
		where = b.doing
	}
	if b.err == nil {
		b.err = errs.New(errs.InvalidArgument, "launch op %d (%s): %s", len(b.ops), where, fmt.Sprintf(format, args...))
	}
}

// NewSlot returns a slot of its own, holding zero.
func (b *Builder) NewSlot() Slot {
	if b.slots > maxSlot {
		b.fail("new slot", "over %d slots", maxSlot)
		return maxSlot
	}
	b.slots++
	return Slot(b.slots - 1)
}

// SlotAddress returns where a slot lies, for calls that take a pointer to 8 bytes and may write there.
func (b *Builder) SlotAddress(s Slot) Address { return Address(slotAddress(s)) }

// NewLabel returns a label not placed yet.
func (b *Builder) NewLabel() Label {
	b.labels = append(b.labels, -1)
	return Label{n: len(b.labels)}
}

// Place puts a label before the next op. Each label that is jumped to must be placed once, after the jump and before the program's end.
func (b *Builder) Place(l Label) {
	switch {
	case l.n < 1 || l.n > len(b.labels):
		b.fail("place label", "not a label of this builder")
	case b.labels[l.n-1] >= 0:
		b.fail("place label", "placed twice")
	default:
		b.labels[l.n-1] = len(b.ops)
	}
}

// Do adds one call. The name says what it is for, in a failure and in the listing. An argument may be
//
//   - an integer of any type, or syscall.Signal: itself;
//   - a string: the address of a NUL-terminated copy, at most MaxPath bytes;
//   - []byte: the address of a copy;
//   - []string: the address of a NULL-terminated vector of copies, each at most MaxString bytes;
//   - an [Address] within the program;
//   - a [Slot]: its value when the op is performed;
//   - nil: NULL.
//
// Arguments not given are zero. The op's fate may be refined by the methods of the result, before the next call of Do.
func (b *Builder) Do(name string, call Call, args ...any) *Op {
	if len(b.block) == 0 {
		b.block = make([]Op, 64)
	}
	o := &b.block[0]
	b.block = b.block[1:]
	name = printableName(name)
	*o = Op{b: b, name: name, call: call}
	b.doing = name
	switch {
	case call >= calls:
		b.fail(name, "no such call %d", uint8(call))
		o.call = none
	case len(args) > len(callTable[call].args):
		b.fail(name, "%s takes %d arguments, given %d", call, len(callTable[call].args), len(args))
	default:
		for i, a := range args {
			o.args[i] = b.argument(name, a)
		}
		b.check(o)
	}
	b.ops = append(b.ops, o)
	b.doing = ""
	return o
}

// printableName quotes a name that would break a line of a log or of the listing: names hold paths, and images choose those.
func printableName(name string) string {
	for i := 0; i < len(name); i++ {
		if name[i] < ' ' || name[i] > '~' {
			return strings.Trim(strconv.QuoteToASCII(name), `"`)
		}
	}
	return name
}

// argument converts one argument of Do.
func (b *Builder) argument(name string, a any) argument {
	switch v := a.(type) {
	case nil:
		return argument{}
	case string:
		return argument{kind: argString, value: uint64(b.String(v))}
	case []byte:
		return argument{kind: argAddress, value: uint64(b.Bytes(v))}
	case []string:
		return argument{kind: argAddress, value: uint64(b.Vector(v))}
	case Slot:
		if v < firstSlot || int(v) >= b.slots {
			b.fail(name, "slot %d was never made", v)
		}
		return argument{kind: argSlot, value: uint64(v)}
	case Address:
		if v != 0 && (v < programBase || v >= programBase+Address(len(b.data))) {
			b.fail(name, "address %#x is not in the program", uint64(v))
		}
		return argument{kind: argAddress, value: uint64(v)}
	}
	n, ok := number(a)
	if !ok {
		b.fail(name, "cannot pass a %T", a)
	}
	return argument{value: n}
}

// number converts integers, keeping the sign: the kernel takes -1 and AT_FDCWD so.
func number(a any) (uint64, bool) {
	switch v := a.(type) {
	case int:
		return uint64(v), true
	case int32:
		return uint64(v), true
	case int64:
		return uint64(v), true
	case uint:
		return uint64(v), true
	case uint8:
		return uint64(v), true
	case uint16:
		return uint64(v), true
	case uint32:
		return uint64(v), true
	case uint64:
		return v, true
	case uintptr:
		return uint64(v), true
	case syscall.Signal:
		return uint64(v), true
	}
	return 0, false
}

// append adds data to the program at an alignment and returns its address; 0 and a mistake when the program is full.
func (b *Builder) append(data []byte, align int) Address {
	for len(b.data)%align != 0 {
		b.data = append(b.data, 0)
	}
	if len(b.data)+len(data) > maxImage {
		b.fail("data", "program over %d bytes", maxImage)
		return 0
	}
	at := Address(programBase + len(b.data))
	b.data = append(b.data, data...)
	return at
}

// Bytes copies data into the program, aligned to 8, and returns where it will lie.
func (b *Builder) Bytes(data []byte) Address {
	size := len(data)
	if size == 0 {
		data = make([]byte, 8) // an address of its own
	}
	at := b.append(data, 8)
	b.blocks = append(b.blocks, block{at, size})
	return at
}

// block is a piece of data.
type block struct {
	at   Address
	size int
}

// Words is [Builder.Bytes] for a structure of 64-bit words.
func (b *Builder) Words(words ...uint64) Address {
	data := make([]byte, 0, 64)
	for _, w := range words {
		data = binary.LittleEndian.AppendUint64(data, w)
	}
	return b.Bytes(data)
}

// String copies a path or another short string into the program, NUL-terminated.
func (b *Builder) String(s string) Address { return b.text(s, MaxPath) }

func (b *Builder) text(s string, limit int) Address {
	switch {
	case s == "" && b.empty != 0:
		return b.empty
	case len(s) > limit:
		b.fail("string", "%.40q… has %d bytes, over %d", s, len(s), limit)
		return b.empty
	case strings.IndexByte(s, 0) >= 0:
		b.fail("string", "%.40q has a NUL byte", s)
		return b.empty
	}
	at := b.append(nil, 1)
	if len(b.data)+len(s)+1 > maxImage {
		b.fail("data", "program over %d bytes", maxImage)
		return b.empty
	}
	b.data = append(append(b.data, s...), 0)
	return at
}

// Vector copies strings into the program and returns a NULL-terminated vector of their addresses: argv and envp of execve. One vector may
// serve several ops.
func (b *Builder) Vector(list []string) Address {
	words := make([]byte, 0, 8*(len(list)+1))
	for _, s := range list {
		words = binary.LittleEndian.AppendUint64(words, uint64(b.text(s, MaxString)))
	}
	return b.Bytes(append(words, 0, 0, 0, 0, 0, 0, 0, 0))
}
