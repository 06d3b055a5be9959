package linux

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace kinds, as clone(2) names them.
const (
	CloneNewNet    = unix.CLONE_NEWNET
	CloneNewPID    = unix.CLONE_NEWPID
	CloneNewIPC    = unix.CLONE_NEWIPC
	CloneNewUTS    = unix.CLONE_NEWUTS
	CloneNewMount  = unix.CLONE_NEWNS
	CloneNewCgroup = unix.CLONE_NEWCGROUP
	CloneNewUser   = unix.CLONE_NEWUSER
)

// NamespaceOf opens a namespace of a process: kind is its name in /proc/PID/ns ("net", "pid", "ipc", "uts", "mnt", "user", "cgroup").
// The PID may be reused by then: ask the process's pidfd for life after opening.
func NamespaceOf(pid int, kind string) (*FD, error) {
	return Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY, 0)
}

// OnThrowAwayThread runs do on an operating-system thread of its own that ends with it, so that do may change the thread's
// namespaces, root or working directory (unshare, setns, chdir) without anybody else noticing. do must not start goroutines that rely on the
// change. The thread has its own filesystem attributes (CLONE_FS unshared), which setns(CLONE_NEWNS) demands.
func OnThrowAwayThread(do func() error) error {
	done := make(chan error, 1)
	run := func() {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare filesystem attributes of a thread: %w", err)
			return
		}
		done <- do()
	}
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		if unix.Gettid() != unix.Getpid() {
			run()
			return
		}
		// The process's first thread cannot end: the runtime parks it as it is, and /proc/self shows its namespaces for the
		// whole process ever after. While it is kept here another one must do it.
		defer runtime.UnlockOSThread()
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			runtime.LockOSThread()
			run()
		}()
		<-finished
	}()
	return <-done
}

// Setns moves the calling thread into the namespaces that f (a namespace or, Linux 5.8, a pidfd) and flags name.
// Call it inside [OnThrowAwayThread].
func (f *FD) Setns(flags int) error {
	if err := retry(func() error { return unix.Setns(f.Int(), flags) }); err != nil {
		return fmt.Errorf("enter namespaces of %s: %w", f.Name(), err)
	}
	return nil
}

// inCopyOfMounts runs do on a throw-away thread in a copy of the mount namespace. What do mounts there nobody else sees, and it is gone afterwards.
func inCopyOfMounts(do func() error) error {
	return OnThrowAwayThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mount namespace: %w", err)
		}
		slash, err := OpenDir("/")
		if err != nil {
			return err
		}
		defer slash.Close()
		if err := slash.SetMountAttr(MountAttr{Propagation: unix.MS_PRIVATE, Recursive: true}); err != nil {
			return err
		}
		return do()
	})
}
