package launch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/errs"
)

// script reads a fuzzer's bytes as choices; zeros when they are used up. A tame one makes few mistakes, so that what is built is also run.
type script struct {
	data []byte
	tame bool
}

func (s *script) byte() int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b)
}

func (s *script) text() string {
	n := min(s.byte(), len(s.data))
	t := string(s.data[:n])
	s.data = s.data[n:]
	if s.tame {
		return strings.ReplaceAll(t, "\x00", "0")
	}
	if n > 200 {
		t += string(make([]byte, 131072)) + t // far too long
	}
	return t
}

func (s *script) errnos() (list []syscall.Errno) {
	for range s.byte() % 4 {
		e := syscall.Errno(s.byte())
		if s.tame {
			e = 1 + e%40
		}
		list = append(list, e)
	}
	if s.tame && list == nil {
		list = []syscall.Errno{2}
	}
	return list
}

// argument makes anything that may be passed to Do, and some that may not.
func (s *script) argument(b *Builder, slots []Slot) any {
	kind := s.byte() % 11
	if s.tame && kind >= 6 {
		if len(slots) == 0 {
			return nil
		}
		return slots[s.byte()%len(slots)]
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return s.byte() - 128
	case 2:
		return uint64(s.byte()) << (s.byte() % 64)
	case 3:
		return s.text()
	case 4:
		return []byte(s.text())
	case 5:
		return []string{s.text(), s.text()}
	case 6:
		return Slot(s.byte())
	case 7:
		return Address(programBase - 4 + s.byte())
	case 8:
		return b.SlotAddress(Slot(s.byte()))
	case 9:
		return b.OpenHow(uint64(s.byte()), 0, 0)
	}
	return 1.5
}

// build makes a program of choices.
func (s *script) build() *Builder {
	arch := Arch(s.byte() % 3)
	b := NewBuilder(arch)
	s.tame = arch == AMD64
	var labels []Label
	var slots []Slot
	var last *Op
	for len(s.data) > 0 {
		switch s.byte() % 8 {
		case 0:
			labels = append(labels, b.NewLabel())
		case 1:
			if len(labels) > 0 {
				n := s.byte() % len(labels)
				if !s.tame || b.labels[labels[n].n-1] < 0 {
					b.Place(labels[n])
				}
			}
		case 2:
			slots = append(slots, b.NewSlot())
		case 3:
			last = s.op(b, slots)
		case 4, 5, 6:
			if last != nil {
				s.refine(b, last, labels, slots)
			}
		case 7:
			b.ExecFirst([]string{s.text(), s.text()}, b.Vector([]string{s.text()}), b.Vector(nil))
		}
	}
	if s.tame {
		for _, l := range labels {
			if b.labels[l.n-1] < 0 {
				b.Place(l)
			}
		}
		b.Do("target", Setsid)
		b.Do("end", Setsid)
	}
	return b
}

func (s *script) op(b *Builder, slots []Slot) *Op {
	call, n := Call(s.byte()), s.byte()%7
	if s.tame {
		call %= calls
		n = min(n, len(callTable[call].args))
	}
	var args []any
	for range n {
		args = append(args, s.argument(b, slots))
	}
	return b.Do("op", call, args...)
}

func (s *script) refine(b *Builder, o *Op, labels []Label, slots []Slot) {
	label := Label{s.byte() - 1}
	if len(labels) > 0 {
		label = labels[s.byte()%len(labels)]
	}
	slot := Slot(s.byte())
	if len(slots) > 0 {
		slot = slots[s.byte()%len(slots)]
	}
	if s.tame && (len(labels) == 0 || len(slots) == 0) {
		return
	}
	switch s.byte() % 9 {
	case 0:
		o.Save(slot)
	case 1:
		o.IgnoreErrors()
	case 2:
		o.Ignore(s.errnos()...)
	case 3:
		skip := s.byte() - 8
		if s.tame {
			skip = 1
		}
		o.SkipOnError(skip, s.errnos()...)
	case 4:
		o.JumpOnError(label, s.errnos()...)
	case 5:
		o.SkipIfZero(s.byte() % 2)
	case 6:
		o.JumpIfZero(label)
	case 7:
		o.JumpIfPositive(label)
	case 8:
		o.Retry(1+s.byte()/2, s.errnos()...)
	}
}

// Whatever is asked of a builder, it refuses it or makes a program that ends, stays inside itself and leads to ended strings.
func FuzzBuilder(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x02\x03\x01\x03\x04/etc\x05\x04\x00\x00\x02\x01"))
	f.Add([]byte("\x01\x00\x03\x00\x02\x04\x00\x00\x04\x02\x01\x00\x03\x00\x04"))
	f.Add([]byte("\x00\x03\x03\x03\x04/etc\x05\x02ab\x01c\x01\x0e\x07\x03/aa\x02/b\x01x"))
	f.Add(bytes.Repeat([]byte("\x00\x03\x00\x04\x05\x06\x08\x10\x02\x0b\x0c\x03"), 30))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := (&script{data: data}).build()
		p, err := b.Program()
		if err != nil {
			if !errs.Is(err, errs.InvalidArgument) || p != nil {
				t.Fatalf("%v is of kind %v", err, errs.KindOf(err))
			}
			return
		}
		if n := bytes.Count([]byte(p.Listing()), []byte("\n")); n != p.Len() {
			t.Fatalf("%d lines for %d ops:\n%s", n, p.Len(), p.Listing())
		}
		for _, result := range []int64{0, 1, -2, -11, -13, -500} {
			checkRun(t, p, result)
		}
	})
}

// A fuzzer whose programs are all refused would prove nothing.
func TestTheFuzzersProgramsAreOftenAccepted(t *testing.T) {
	accepted, refused := 0, 0
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		data := make([]byte, 20+r.IntN(200))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		data[0] = byte(AMD64)
		p, err := (&script{data: data}).build().Program()
		if err != nil {
			refused++
			continue
		}
		accepted++
		checkRun(t, p, -2)
	}
	if accepted < 100 || refused == 0 {
		t.Errorf("%d accepted, %d refused", accepted, refused)
	}
}

// checkRun performs a program in the model, with one result for all calls, and looks at all that is passed to them.
func checkRun(t *testing.T, p *Program, result int64) {
	t.Helper()
	m := &model{image: bytes.Clone(p.Image()), arch: p.arch}
	calls := 0
	m.result = func(number int32, _ [6]uint64) int64 {
		calls++
		if number < 0 {
			m.problem = fmt.Errorf("call %d", number)
		}
		return result
	}
	m.run()
	if m.problem != nil {
		t.Fatalf("%v\n%s", m.problem, p.Listing())
	}
	if !m.failed || m.op < 0 || m.op > int64(p.Len()) {
		t.Fatalf("ended without failing in op %d", m.op)
	}
	if m.steps > (maxOps)*(maxRetry+2) {
		t.Fatalf("%d steps", m.steps)
	}
	for _, o := range p.ops {
		for i, a := range o.args {
			if a.kind == argString {
				checkString(t, p, a.value)
			}
			if letters := callTable[o.call].args; a.kind == argAddress && i < len(letters) && (letters[i] == 'v' || letters[i] == 'e') {
				checkVector(t, p, a.value)
			}
		}
	}
}

func checkString(t *testing.T, p *Program, at uint64) {
	t.Helper()
	if at < programBase+dataStart || at >= programBase+uint64(len(p.image)) || bytes.IndexByte(p.image[at-programBase:], 0) < 0 {
		t.Fatalf("string at %#x\n%s", at, p.Listing())
	}
}

// checkVector looks at vectors that the builder made; any address in the program may be passed for one.
func checkVector(t *testing.T, p *Program, at uint64) {
	t.Helper()
	for _, b := range p.blocks {
		if uint64(b.at) != at || b.size%8 != 0 {
			continue
		}
		words := p.image[at-programBase:][:b.size]
		if !bytes.HasSuffix(words, make([]byte, 8)) {
			return // no vector
		}
		for ; len(words) > 8; words = words[8:] {
			if s := binary.LittleEndian.Uint64(words); s >= programBase+dataStart {
				checkString(t, p, s)
			}
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for b.Loop() {
		builder := NewBuilder(Native())
		containerProgram(builder)
		if _, err := builder.Program(); err != nil {
			b.Fatal(err)
		}
	}
}
