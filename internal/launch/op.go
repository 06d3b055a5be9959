package launch

import (
	"math/bits"
	"syscall"
)

// Op is one call of a program being built. Its methods say what happens after the call; without any, an error fails the launch and
// anything else goes on with the next op.
type Op struct {
	b    *Builder
	name string
	call Call
	args [6]argument
	save Slot

	retries  int
	retryOn  errnoSet
	handlers []handler
	onZero   target
	onOther  target // results above zero
}

type argKind uint8

const (
	argNumber argKind = iota
	argSlot
	argString
	argAddress
)

type argument struct {
	kind  argKind
	value uint64 // a number, a slot, or an address
}

// handler says where to go on some errors, or on all that no earlier handler names.
type handler struct {
	on   errnoSet
	rest bool
	to   target
}

// target is a place to go on: the next op (zero value), a number of ops further, or a label.
type target struct {
	skip  int
	label int // 1-based, 0 none
}

func (t target) next() bool { return t == target{} }

// errnoSet holds errnos 0 to 191: all that system calls return on Linux but ENOTSUPP and its like, which are NFS's own.
type errnoSet [3]uint64

func (o *Op) set(errnos []syscall.Errno) errnoSet {
	var s errnoSet
	for _, e := range errnos {
		if e == 0 || int(e) >= 64*len(s) {
			o.b.fail(o.name, "errno %d cannot be handled", int(e))
			continue
		}
		s[e/64] |= 1 << (e % 64)
	}
	return s
}

func (s errnoSet) errnos() (list []syscall.Errno) {
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			list = append(list, syscall.Errno(64*i+bits.TrailingZeros64(w)))
		}
	}
	return list
}

func (s errnoSet) minus(t errnoSet) errnoSet {
	return errnoSet{s[0] &^ t[0], s[1] &^ t[1], s[2] &^ t[2]}
}

// Save keeps the result in a slot; of an error that is handled, the negative errno.
func (o *Op) Save(s Slot) *Op {
	if s < firstSlot || int(s) >= o.b.slots {
		o.b.fail(o.name, "slot %d was never made", s)
		return o
	}
	o.save = s
	return o
}

// IgnoreErrors goes on with the next op on every error that no earlier rule names.
func (o *Op) IgnoreErrors() *Op { return o.on(nil, target{}) }

// Ignore goes on with the next op on these errors.
func (o *Op) Ignore(errnos ...syscall.Errno) *Op {
	if len(errnos) == 0 {
		o.b.fail(o.name, "ignores no error")
		return o
	}
	return o.on(errnos, target{})
}

// SkipOnError skips the next n ops on these errors, on every error if none is named.
func (o *Op) SkipOnError(n int, errnos ...syscall.Errno) *Op { return o.on(errnos, o.forward(n)) }

// JumpOnError goes on at the label on these errors, on every error if none is named. An op may have several such rules; an error
// follows the first that names it.
func (o *Op) JumpOnError(l Label, errnos ...syscall.Errno) *Op { return o.on(errnos, o.to(l)) }

func (o *Op) on(errnos []syscall.Errno, to target) *Op {
	h := handler{on: o.set(errnos), rest: len(errnos) == 0, to: to}
	for _, earlier := range o.handlers {
		if earlier.rest {
			return o
		}
		h.on = h.on.minus(earlier.on)
	}
	if h.rest || h.on != (errnoSet{}) {
		o.handlers = append(o.handlers, h)
	}
	return o
}

// SkipIfZero skips the next n ops if the result is zero.
func (o *Op) SkipIfZero(n int) *Op { o.onZero = o.forward(n); return o }

// JumpIfZero goes on at the label if the result is zero: in the child of clone.
func (o *Op) JumpIfZero(l Label) *Op { o.onZero = o.to(l); return o }

// JumpIfPositive goes on at the label if the result is above zero.
func (o *Op) JumpIfPositive(l Label) *Op { o.onOther = o.to(l); return o }

// Retry performs the call up to n times more (at most 128) while it ends in one of these errors; the last time, other rules decide.
// For EAGAIN of openat2(2), whose walk through ".." is disturbed by any mount or rename on the machine.
func (o *Op) Retry(n int, errnos ...syscall.Errno) *Op {
	if n < 1 || n > maxRetry || len(errnos) == 0 {
		o.b.fail(o.name, "cannot retry %d times on %d errors", n, len(errnos))
		return o
	}
	o.retries, o.retryOn = n, o.set(errnos)
	return o
}

func (o *Op) forward(n int) target {
	if n < 0 || n > maxOps {
		o.b.fail(o.name, "cannot skip %d ops", n)
		n = 0
	}
	return target{skip: n}
}

func (o *Op) to(l Label) target {
	if l.n < 1 || l.n > len(o.b.labels) {
		o.b.fail(o.name, "not a label of this builder")
		return target{}
	}
	return target{label: l.n}
}
