package launch

import (
	"path"
	"syscall"
)

// Let puts a number, an [Address] or another slot's value into a slot. It never fails, also with a value between -4095 and -1.
func (b *Builder) Let(name string, s Slot, value any) *Op {
	return b.Do(name, none, value).Save(s).IgnoreErrors()
}

// Test looks at a slot's value again as if an op had returned it: refine what happens with the Op's methods. By itself it fails the
// launch if the slot holds an error.
func (b *Builder) Test(name string, s Slot) *Op { return b.Do(name, none, s) }

// Goto goes on at the label.
func (b *Builder) Goto(l Label) *Op { return b.Do("go on", none).JumpIfZero(l) }

// Fail fails the launch with an errno.
func (b *Builder) Fail(name string, errno syscall.Errno) *Op {
	if errno == 0 || errno > 4095 {
		b.fail(name, "errno %d is none", int(errno))
	}
	return b.Do(name, none, -int64(errno))
}

// ReportPID tells the keeper that the process to watch is the one whose PID, as the keeper sees it, a slot holds: a child cloned with CLONE_PARENT.
func (b *Builder) ReportPID(s Slot) *Op {
	kind := b.NewSlot()
	pid := b.NewSlot() // lies behind kind: the report is the two words
	b.Let("report: a PID", kind, 1)
	b.Let("report: which", pid, s)
	return b.Do("report PID", Write, ReportFD, b.SlotAddress(kind), 16)
}

// ExecFirst ends a program with the first of several files that can be executed, as execvp(3) does with PATH: what is missing
// (ENOENT, ENOTDIR) or forbidden (EACCES) is passed over, any other error ends the search. If none can be: EACCES if one was
// forbidden, else ENOENT.
func (b *Builder) ExecFirst(files []string, argv, envp Address) *Op {
	forbidden := b.NewSlot()
	for _, f := range files {
		next := b.NewLabel()
		b.Do("execute "+f, Execve, f, argv, envp).JumpOnError(next, syscall.ENOENT, syscall.ENOTDIR).Ignore(syscall.EACCES)
		b.Let("forbidden: "+f, forbidden, -int64(syscall.EACCES))
		b.Place(next)
	}
	what := "nothing"
	if len(files) > 0 {
		what = path.Base(files[0])
	}
	b.Test("find executable "+what, forbidden)
	return b.Fail("find executable "+what, syscall.ENOENT)
}
