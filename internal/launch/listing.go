package launch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listing prints the program, a line an op: its number, its name, the call with symbolic flags, and what happens after it where that is not
// "an error fails, else the next op". s3 is the value of slot 3, &s3 its address. Of environments only the names are shown: values may be
// secrets. The text is stable for the same program on the same architecture.
func (p *Program) Listing() string {
	var out strings.Builder
	for i, o := range p.ops[:p.Len()] {
		fmt.Fprintf(&out, "%3d %s: %s", i, o.name, p.call(o))
		if o.save != 0 {
			fmt.Fprintf(&out, " = s%d", o.save)
		}
		for _, rule := range p.after(i, o) {
			fmt.Fprintf(&out, "; %s", rule)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// call prints an op's call with its arguments.
func (p *Program) call(o *Op) string {
	letters := callTable[o.call].args
	if o.call == none && o.args[1] == (argument{}) {
		letters = letters[:1]
	}
	var args []string
	for i := range letters {
		args = append(args, p.argument(o.args[i], letters[i]))
	}
	return fmt.Sprintf("%s(%s)", o.call, strings.Join(args, ", "))
}

// after lists the rules for what follows an op.
func (p *Program) after(i int, o *Op) (rules []string) {
	if o.retries > 0 {
		rules = append(rules, fmt.Sprintf("%s: again %d times", errnoNames(o.retryOn), o.retries))
	}
	for _, h := range o.handlers {
		on := "other errors"
		switch {
		case !h.rest:
			on = errnoNames(h.on)
		case len(o.handlers) == 1:
			on = "errors"
		}
		rules = append(rules, fmt.Sprintf("%s: %s", on, p.goOn(i, h.to)))
	}
	if !o.onZero.next() {
		rules = append(rules, "0: "+p.goOn(i, o.onZero))
	}
	if !o.onOther.next() {
		rules = append(rules, "above 0: "+p.goOn(i, o.onOther))
	}
	return rules
}

func (p *Program) goOn(i int, t target) string {
	switch {
	case t.label != 0:
		return fmt.Sprintf("go to %d", p.labels[t.label-1])
	case t.skip != 0:
		return fmt.Sprintf("go to %d", i+1+t.skip)
	}
	return "go on"
}

func errnoNames(s errnoSet) string {
	var names []string
	for _, e := range s.errnos() {
		names = append(names, errnoName(e))
	}
	return strings.Join(names, " ")
}

func errnoName(e syscall.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(e))
}

func (p *Program) argument(a argument, letter byte) string {
	switch {
	case a.kind == argSlot:
		return fmt.Sprintf("s%d", a.value)
	case a.kind == argString:
		return quote(p.stringAt(a.value))
	case a.kind == argAddress && (letter == 'v' || letter == 'e'):
		return p.vector(a.value, letter == 'e')
	case a.kind == argAddress:
		return p.pointer(a.value)
	case letter == 'f' && int64(a.value) == unix.AT_FDCWD:
		return "AT_FDCWD"
	case letter == 'o':
		return fmt.Sprintf("%#o", a.value)
	case letter == 'd' || letter == 'f':
		return fmt.Sprint(int64(a.value))
	case a.value == 0 && strings.IndexByte("pve", letter) >= 0:
		return "NULL"
	}
	if s, ok := symbolic(letter, a.value, p.arch); ok {
		return s
	}
	if n := int64(a.value); n < 0 && n > -4096 {
		return fmt.Sprint(n)
	}
	return hexadecimal(a.value)
}

// pointer prints what an address in the program leads to.
func (p *Program) pointer(at uint64) string {
	if at >= slotAddress(0) && at < programBase+dataStart {
		return fmt.Sprintf("&s%d", (at-slotAddress(0))/8)
	}
	i := sort.Search(len(p.blocks), func(i int) bool { return uint64(p.blocks[i].at) >= at })
	if i == len(p.blocks) || uint64(p.blocks[i].at) != at {
		return quote(p.stringAt(at))
	}
	data := p.image[at-programBase:][:p.blocks[i].size]
	switch {
	case len(data) == 0:
		return "{}"
	case printable(data):
		return quote(string(data))
	case len(data)%8 != 0 || len(data) > 64:
		return fmt.Sprintf("{%d bytes}", len(data))
	}
	var words []string
	for ; len(data) > 0; data = data[8:] {
		words = append(words, p.word(binary.LittleEndian.Uint64(data)))
	}
	return "{" + strings.Join(words, ", ") + "}"
}

// word prints a word of a structure: what it leads to if it is an address, so that no address is in a listing.
func (p *Program) word(w uint64) string {
	for _, b := range p.blocks {
		if uint64(b.at) == w {
			return fmt.Sprintf("→{%d bytes}", b.size)
		}
	}
	return hexadecimal(w)
}

func (p *Program) vector(at uint64, namesOnly bool) string {
	var words []string
	for ; at >= programBase && at+8 <= programBase+uint64(len(p.image)); at += 8 {
		word := binary.LittleEndian.Uint64(p.image[at-programBase:])
		if word == 0 {
			break
		}
		s := p.stringAt(word)
		if name, _, found := strings.Cut(s, "="); namesOnly && found {
			s = name + "=…"
		}
		words = append(words, quote(s))
	}
	return "[" + strings.Join(words, " ") + "]"
}

func (p *Program) stringAt(at uint64) string {
	if at < programBase || at >= programBase+uint64(len(p.image)) {
		return ""
	}
	s, _, _ := bytes.Cut(p.image[at-programBase:], []byte{0})
	return string(s)
}

func quote(s string) string {
	const most = 200
	if len(s) > most {
		return fmt.Sprintf("%q…(%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func printable(data []byte) bool {
	for _, c := range data {
		if (c < ' ' || c > '~') && c != '\n' {
			return false
		}
	}
	return true
}
