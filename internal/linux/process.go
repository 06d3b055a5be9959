package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// IsGone reports whether an error says that a process has ended (ESRCH).
func IsGone(err error) bool { return errors.Is(err, unix.ESRCH) }

// SessionMembers returns those of pids that are in the session led by leader or descend from it.
func SessionMembers(pids []int, leader int) []int {
	type stat struct{ parent, session int }
	known := map[int]stat{}
	for _, pid := range pids {
		if parent, session, err := parentAndSession(pid); err == nil {
			known[pid] = stat{parent, session}
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

// parentAndSession reads two fields of /proc/PID/stat, proc_pid_stat(5); the name before them may hold anything, so they are counted from its last ")".
func parentAndSession(pid int) (parent, session int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 4 {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	if parent, err = strconv.Atoi(string(fields[1])); err != nil {
		return 0, 0, err
	}
	session, err = strconv.Atoi(string(fields[3]))
	return parent, session, err
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
