package linux

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spawn describes a child process started from an open file.
type Spawn struct {
	// Executable is the program's file; O_PATH suffices. Scripts do not work.
	Executable *FD
	// Args are the program's, its name first.
	Args []string
	// Files become the child's descriptors 0, 1, 2, …; it gets no others and no environment.
	Files []*FD
	// CloneFlags are namespaces the child is born into.
	CloneFlags uint64
	// Cgroup is a cgroup2 directory that the child is born in, nil for the parent's.
	Cgroup *FD
}

// Start starts the child in a session of its own and returns its PID and pidfd. Whoever calls it reaps the child.
//
// It is fork and exec without copying memory (CLONE_VFORK|CLONE_VM); the error is execve's or clone's.
func (s Spawn) Start() (pid int, pidfd *FD, err error) {
	// The child moves its descriptors to their places before it executes /proc/self/fd/N: N must lie out of the way of the places
	// and of the spare numbers above all of Files that syscall.forkAndExecInChild uses meanwhile.
	high := 0
	files := make([]uintptr, len(s.Files))
	for i, f := range s.Files {
		files[i] = uintptr(f.Int())
		high = max(high, f.Int())
	}
	high += 2*len(files) + 16
	exe, err := retryFD("duplicate", s.Executable.Name(), func() (int, error) {
		return unix.FcntlInt(uintptr(s.Executable.Int()), unix.F_DUPFD_CLOEXEC, high)
	})
	if err != nil {
		return 0, nil, err
	}
	defer exe.Close()
	pidfdNumber := -1
	attr := &syscall.ProcAttr{Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{
		Cloneflags: uintptr(s.CloneFlags), Setsid: true, PidFD: &pidfdNumber,
	}}
	if s.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, s.Cgroup.Int()
	}
	pid, err = syscall.ForkExec(exe.Path(), s.Args, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", s.Executable.Name(), err)
	}
	name := fmt.Sprintf("pidfd of process %d", pid)
	if pidfdNumber >= 0 {
		return pid, NewFD(pidfdNumber, name), nil
	}
	if pidfd, err = OpenPidfd(pid); err != nil { // safe, nobody else reaps the child
		syscall.Kill(pid, syscall.SIGKILL)
		WaitPID(pid)
		return 0, nil, err
	}
	return pid, pidfd, nil
}
