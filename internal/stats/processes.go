package stats

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Processes are figures of a group's processes that no control group keeps.
type Processes struct {
	Count uint64
	// FileDescriptors are those open in all of them, Sockets the ones among them that are sockets.
	FileDescriptors, Sockets uint64
	// OpenFiles is the soft limit of file descriptors of the first; nil if it is gone.
	OpenFiles *uint64
}

// A container may have any number of processes and descriptors; beyond these, they are counted no more.
const (
	maxProcesses   = 512
	maxDescriptors = 8192
)

// MeasureProcesses looks at processes in /proc, first is the one whose limits are told. What ends meanwhile is not counted beyond Count.
func MeasureProcesses(proc string, pids []int, first int) Processes {
	p := Processes{Count: uint64(len(pids)), OpenFiles: openFiles(proc, first)}
	looked := 0
	for _, pid := range pids[:min(len(pids), maxProcesses)] {
		dir := filepath.Join(proc, strconv.Itoa(pid), "fd")
		for _, name := range names(dir, maxDescriptors) {
			p.FileDescriptors++
			if looked++; looked > maxDescriptors {
				continue
			}
			if to, err := os.Readlink(filepath.Join(dir, name)); err == nil && strings.HasPrefix(to, "socket:[") {
				p.Sockets++
			}
		}
	}
	return p
}

// names lists at most n entries of a directory; none of one that is gone.
func names(dir string, n int) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	list, _ := f.Readdirnames(n)
	return list
}

func openFiles(proc string, pid int) *uint64 {
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "limits"))
	if err != nil {
		return nil
	}
	// Max open files            1024                 524288               files
	_, after, _ := strings.Cut(string(b), "Max open files")
	fields := strings.Fields(after)
	if len(fields) < 2 {
		return nil
	}
	n, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil { // "unlimited", which the kernel does not allow here
		return nil
	}
	return &n
}
