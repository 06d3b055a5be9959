package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"fermata/internal/errs"
)

// IsGone reports whether an error says that a process has ended (ESRCH).
func IsGone(err error) bool { return errors.Is(err, unix.ESRCH) }

// refusals are errnos that say that what a call named cannot be what it was named for; others say that the machine, or we, are at fault.
var refusals = []error{
	unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EACCES, unix.EPERM, unix.EROFS, unix.EEXIST, unix.ENXIO, unix.ENODEV,
	unix.ENOEXEC, unix.ECONNREFUSED, unix.E2BIG, unix.ETXTBSY, unix.EXDEV, unix.ENOTBLK, unix.EOPNOTSUPP, unix.ERANGE, unix.EINVAL,
}

// IsRefusal reports whether an error says that the kernel refused a name or a value that it was given.
func IsRefusal(err error) bool {
	return slices.ContainsFunc(refusals, func(e error) bool { return errors.Is(err, e) })
}

// Refused gives an error the kind FailedPrecondition if the kernel refused what it was given, which must be what a request, or an image, named.
func Refused(err error) error {
	if errs.Is(err, errs.Internal) && IsRefusal(err) { // nobody has given it a better one
		return errs.As(errs.FailedPrecondition, err)
	}
	return err
}

// SessionMembers returns those of pids that are in the session led by leader or descend from it.
func SessionMembers(pids []int, leader int) []int {
	known := map[int]stat{}
	for _, pid := range pids {
		if s, err := statFields(pid); err == nil {
			known[pid] = s
		}
	}
	var in []int
	for _, pid := range pids {
		for at, steps := pid, 0; steps <= len(pids); steps++ { // bounded: PIDs may be reused while we look
			s, ok := known[at]
			if at == leader || ok && s.session == leader {
				in = append(in, pid)
				break
			}
			if !ok {
				break
			}
			at = s.parent
		}
	}
	return in
}

// KillGroup kills the process group that a child leads, and so what the child cloned. The child must not have been reaped: its PID names the group.
func KillGroup(leader int) error {
	if err := unix.Kill(-leader, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill process group %d: %w", leader, err)
	}
	return nil
}

// EndGroupOf kills and reaps this process's children that are in the process group of another child, its leader, which stays for whoever waits for it. It is
// for processes nobody knows of: cloned with CLONE_PARENT by a child that was killed before it could tell. The leader must not have been reaped: its PID
// names the group.
func EndGroupOf(leader int) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for the children of process %d's group: %w", leader, err)
	}
	var failed []error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == leader {
			continue
		}
		f, err := statFields(pid)
		if err != nil || f.parent != os.Getpid() || f.group != leader {
			continue
		}
		err = unix.Kill(pid, unix.SIGKILL) // not reaped by anybody but us: still the right one
		if err == nil {
			_, err = WaitPID(pid)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// stat is a part of /proc/PID/stat, proc_pid_stat(5).
type stat struct{ parent, group, session int }

// statFields reads it; the name before the fields may hold anything, so they are counted from its last ")".
func statFields(pid int) (s stat, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 4 {
		return s, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	for i, to := range []*int{&s.parent, &s.group, &s.session} {
		if *to, err = strconv.Atoi(string(fields[i+1])); err != nil {
			return s, err
		}
	}
	return s, nil
}

// exitCodeField is where /proc/PID/stat has the exit code, counted from the state: field 52 of proc_pid_stat(5).
const exitCodeField = 52 - 3

// ZombieExit returns how the process of a pidfd ended that nobody has reaped yet, child or not. known is false if it runs, or is reaped.
func (f *FD) ZombieExit() (exit Exit, known bool, err error) {
	fields, err := f.stat()
	if err != nil || len(fields) <= exitCodeField || string(fields[0]) != "Z" {
		return Exit{}, false, err
	}
	status, err := strconv.Atoi(string(fields[exitCodeField]))
	return exitOf(unix.WaitStatus(status)), err == nil, err
}

// stat is what /proc/PID/stat says of the process of a pidfd from its state on; nil if it is reaped.
func (f *FD) stat() ([][]byte, error) {
	pid, err := f.PID()
	if IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := f.Signal(0); err != nil { // reaped meanwhile: what was read may be of another process
		return nil, nil //nolint:nilerr // told by nil
	}
	return bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]), nil
}

const (
	flagsField = 9 - 3 // of proc_pid_stat(5), as exitCodeField
	exiting    = 0x4   // PF_EXITING of the kernel's include/linux/sched.h
)

// PidfdEnding reports whether the process of a pidfd is on its way out or has ended, reaped or not. Its descriptors are closed after that became so, and
// its pidfd tells of the end after they are closed.
func (f *FD) PidfdEnding() (bool, error) {
	fields, err := f.stat()
	if err != nil || len(fields) <= flagsField {
		return err == nil, err
	}
	flags, err := strconv.ParseUint(string(fields[flagsField]), 10, 64)
	return flags&exiting != 0, err
}

// HideFromDebuggers keeps this process's memory and descriptors from everybody without CAP_SYS_PTRACE: PR_SET_DUMPABLE 0, prctl(2).
func HideFromDebuggers() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set dumpable: %w", err)
	}
	return nil
}

// PID returns the process ID behind a pidfd, as this process's PID namespace numbers it; an ended process is ESRCH.
func (f *FD) PID() (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Int()))
	if err != nil {
		return 0, fmt.Errorf("find process of %s: %w", f.Name(), err)
	}
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err == nil && pid <= 0 {
				err = unix.ESRCH
			}
			if err != nil {
				return 0, fmt.Errorf("find process of %s: %w", f.Name(), err)
			}
			return pid, nil
		}
	}
	return 0, fmt.Errorf("find process of %s: not a pidfd: %w", f.Name(), unix.EBADF)
}

// OutputPipe makes a pipe for a command's output: an end to read here, without blocking a thread, and an end to give away. Only the first is
// non-blocking: a command must find its end as any shell would give it.
func OutputPipe() (*os.File, *FD, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	w := NewFD(p[1], "pipe for output")
	if err := unix.SetNonblock(p[0], true); err != nil {
		unix.Close(p[0])
		w.Close()
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "pipe for output"), w, nil
}

// ScratchPipe makes a pipe, both of whose ends are non-blocking.
func ScratchPipe() (r, w *FD, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return NewFD(p[0], "scratch pipe"), NewFD(p[1], "scratch pipe"), nil
}
