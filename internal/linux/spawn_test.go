package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// The program's file has the lowest free number, as it does in a keeper that received it before the others: the child's places must not
// cover it.
func TestSpawnGivesTheFilesInOrder(t *testing.T) {
	exe, err := Open("/bin/sh", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	r, w, err := OutputPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := Open(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	files := []*FD{null, w, w}
	for range 30 {
		files = append(files, null)
	}
	pid, pidfd, err := Spawn{Executable: exe, Args: []string{"sh", "-c", "echo $0 $$; set | grep -c SECRET; [ -e /proc/self/fd/32 ] && [ ! -e /proc/self/fd/33 ] && echo all", "name"}, Files: files}.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	var out strings.Builder
	buf := make([]byte, 100)
	for {
		n, err := r.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if want := fmt.Sprintf("name %d\n0\nall\n", pid); out.String() != want {
		t.Errorf("child said %q, want %q", out.String(), want)
	}
	if e, err := pidfd.WaitPidfd(); err != nil || e.Code != 0 {
		t.Errorf("exit %+v, %v", e, err)
	}
}

func TestSpawnNamesWhatCannotBeStarted(t *testing.T) {
	dir, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, _, err := (Spawn{Executable: dir, Args: []string{"x"}}).Start(); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), dir.Name()) {
		t.Errorf("error %v", err)
	}
}
