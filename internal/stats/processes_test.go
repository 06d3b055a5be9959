package stats

import (
	"net"
	"os"
	"syscall"
	"testing"
)

func TestMeasureProcesses(t *testing.T) {
	me := os.Getpid()
	before := MeasureProcesses("/proc", []int{me}, me)
	a, b, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	after := MeasureProcesses("/proc", []int{me, 1 << 30}, me)
	if after.Sockets != before.Sockets+1 || after.FileDescriptors < before.FileDescriptors+3 {
		t.Errorf("a pipe and a socket took it from %+v to %+v", before, after)
	}
	if before.Count != 1 || after.Count != 2 {
		t.Errorf("%d of one process, %d of two", before.Count, after.Count)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if after.OpenFiles == nil || *after.OpenFiles == 0 || *after.OpenFiles > limit.Max {
		t.Errorf("limit of open files %v; it is at most %d", after.OpenFiles, limit.Max)
	}
	if gone := MeasureProcesses("/proc", nil, 1<<30); gone != (Processes{}) {
		t.Errorf("of a process that is gone: %+v", gone)
	}
}

func TestMeasureFilesystem(t *testing.T) {
	f, err := MeasureFilesystem(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if f.Limit == 0 || f.Device == "" || f.InodesFree > f.InodesTotal {
		t.Errorf("%+v", f)
	}
	if _, err := MeasureFilesystem("/does/not/exist"); err == nil {
		t.Error("no error for a directory that is not there")
	}
}
