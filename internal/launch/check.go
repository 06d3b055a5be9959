package launch

import "encoding/binary"

const closeOnExec = 0x80000 // O_CLOEXEC, and by the kernel's choice OPEN_TREE_CLOEXEC and SOCK_CLOEXEC, on both architectures

// Requests and commands that concern the mark.
const (
	tiocgptpeer = 0x5441 // ioctl_tty(2): its argument is open flags
	fionclex    = 0x5450
	fDupfd      = 0
	fSetfd      = 2
	fdCloexec   = 1
)

// check refuses an op that would make a descriptor which survives execve, or would take the mark off one: no descriptor but 0-2 reaches
// the target (CVE-2024-21626). What kind of descriptor comes out must be visible in constants.
func (b *Builder) check(o *Op) {
	constant := func(i int) (uint64, bool) { return o.args[i].value, o.args[i].kind == argNumber }
	marked := func(i int, mark uint64) bool { v, ok := constant(i); return ok && v&mark != 0 }
	stdio := func(i int) bool { v, ok := constant(i); return ok && v <= 2 }
	ok := true
	switch o.call {
	case Openat:
		ok = marked(2, closeOnExec)
	case OpenTree:
		ok = marked(2, closeOnExec)
	case Openat2:
		ok = b.wordAt(o.args[2])&closeOnExec != 0
	case Pipe2:
		ok = marked(1, closeOnExec)
	case Socket:
		ok = marked(1, closeOnExec)
	case Fsopen, Fsmount:
		ok = marked(1, 1)
	case Fspick:
		ok = marked(2, 1)
	case Dup3:
		ok = stdio(1) || marked(2, closeOnExec)
	case Fcntl:
		command, known := constant(1)
		ok = known && command != fDupfd && (command != fSetfd || marked(2, fdCloexec) || stdio(0))
	case Ioctl:
		request, known := constant(1)
		ok = known && uint32(request) != fionclex && (uint32(request) != tiocgptpeer || marked(2, closeOnExec))
	}
	if !ok {
		b.fail(o.name, "%s: the descriptor would reach the target: close-on-exec must be set", o.call)
	}
}

// wordAt reads the first word of the data an argument leads to, 0 if it does not lead into the data.
func (b *Builder) wordAt(a argument) uint64 {
	at := a.value - programBase
	if a.kind != argAddress || at < dataStart || at+8 > uint64(len(b.data)) {
		return 0
	}
	return binary.LittleEndian.Uint64(b.data[at:])
}
