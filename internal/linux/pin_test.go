package linux_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"fermata/internal/linux"
)

func TestAPinTellsHowAProcessEnded(t *testing.T) {
	dir := t.TempDir()
	pins := filepath.Join(dir, "pins")
	if err := os.Mkdir(pins, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the first's
		if err := linux.MountPins(pins); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := linux.UnmountPins(pins); err != nil {
			t.Error(err)
		}
	})
	for name, want := range map[string]linux.Exit{"exit 7": {Code: 7}, "kill -9 $$": {Code: 137, Signal: 9}} {
		cmd := exec.Command("/bin/sh", "-c", "read x; "+name)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pidfd, err := linux.OpenPidfd(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		inode, err := pidfd.Inode()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(pins, "p")
		if err := pidfd.Pin(path); err != nil {
			t.Fatal(err)
		}
		if _, known, err := pidfd.PidfdExit(); known || err != nil {
			t.Errorf("while it runs: %v, %v", known, err)
		}
		pidfd.Close()
		in.Close()
		cmd.Wait()
		pinned, err := linux.OpenPinned(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pinned.Inode(); err != nil || got != inode {
			t.Errorf("inode %d, want %d (%v)", got, inode, err)
		}
		if got, known, err := pinned.PidfdExit(); !known || err != nil || got != want {
			t.Errorf("%q: %+v, %v, %v", name, got, known, err)
		}
		pinned.Close()
		for range 2 {
			if err := linux.Unpin(path); err != nil {
				t.Error(err)
			}
		}
	}
}

func BenchmarkPin(b *testing.B) {
	dir := b.TempDir()
	if err := linux.MountPins(dir); err != nil {
		b.Fatal(err)
	}
	defer linux.UnmountPins(dir)
	pidfd, _ := linux.OpenPidfd(os.Getpid())
	defer pidfd.Close()
	path := filepath.Join(dir, "p")
	for b.Loop() {
		if err := pidfd.Pin(path); err != nil {
			b.Fatal(err)
		}
		if err := linux.Unpin(path); err != nil {
			b.Fatal(err)
		}
	}
}
