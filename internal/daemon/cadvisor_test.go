package daemon

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestCadvisorsSocketIsTakenFromNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run/containerd.sock")
	first, err := listenWhereNobodyDoes(path)
	if err != nil {
		t.Fatalf("where no directory is: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want root's alone", st.Mode(), err)
	}
	if second, err := listenWhereNobodyDoes(path); err == nil {
		second.Close()
		t.Error("taken from a program that serves there")
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed program leaves it
	first.Close()
	third, err := listenWhereNobodyDoes(path)
	if err != nil {
		t.Fatalf("where a dead program's socket is: %v", err)
	}
	third.Close()
}
