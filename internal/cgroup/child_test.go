package cgroup_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

// joinedEnv tells a child that it has joined already.
const joinedEnv = "FERMATA_TEST_JOINED"

// join is what the stage does: a thread moves itself and becomes, by execve, the process's only one. A Go program has other threads before that.
func join() {
	runtime.LockOSThread()
	for fd := 3; ; fd++ {
		f := os.NewFile(uintptr(fd), "tasks")
		if _, err := f.Stat(); err != nil {
			break
		}
		if _, err := f.WriteString("0"); err != nil {
			break // descriptors of the runtime's own (epoll) come after ours
		}
		f.Close()
	}
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), joinedEnv+"=1"))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// child is what a process in a group does: it joins the v1 hierarchies by the descriptors 3 and up, acts, says so by a byte on standard output,
// and stays until standard input ends.
func child() {
	if os.Getenv(joinedEnv) == "" {
		join()
	}
	switch os.Getenv(childEnv) {
	case "sleep":
	case "fork": // with a child of its own
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{childEnv + "=sleep"}
		cmd.Stdin = os.Stdin
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		out.Read(make([]byte, 1))
	case "bomb": // chains of processes each of which lives just long enough to start the next
		cmd := exec.Command("/bin/sh", "-c", "f() { f & }; for i in 1 2 3 4; do f & done")
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		cmd.Wait()
	case "spin":
		os.Stdout.Write([]byte{1})
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		//lint:ignore SA5002 the child is there to use the processor
		for {
		}
	case "open": // tries to open devices, each time it is told to
		os.Stdout.Write([]byte{1})
		for {
			if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
				return
			}
			os.Stdout.Write(tryDevices())
		}
	case "eat": // takes memory and touches it: argument 1 is MiB
		n, _ := strconv.Atoi(os.Args[1])
		os.Stdout.Write([]byte{1})
		io.ReadFull(os.Stdin, make([]byte, 1))
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
	}
	os.Stdout.Write([]byte{1})
	io.Copy(io.Discard, os.Stdin)
}

// tryDevices opens devices and says of each whether it could.
func tryDevices() []byte {
	var answer []byte
	for _, d := range []struct {
		path  string
		flags int
	}{{"/dev/null", os.O_RDONLY}, {"/dev/null", os.O_WRONLY}, {"/dev/null", os.O_RDWR}, {"/dev/zero", os.O_RDONLY}} {
		f, err := os.OpenFile(d.path, d.flags, 0)
		f.Close()
		answer = append(answer, map[bool]byte{true: 'y', false: 'n'}[err == nil])
	}
	return answer
}
