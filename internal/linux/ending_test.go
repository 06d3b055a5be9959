package linux_test

import (
	"os/exec"
	"testing"

	"fermata/internal/linux"
)

// A process is ending from its end on, whether or not somebody has reaped it.
func TestPidfdEnding(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read x")
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
	defer pidfd.Close()
	if ending, err := pidfd.PidfdEnding(); ending || pidfd.PidfdEnded() || err != nil {
		t.Errorf("while it runs: %v, %v", ending, err)
	}
	in.Close()
	if err := pidfd.AwaitReadable(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"not reaped", "reaped"} {
		if ending, err := pidfd.PidfdEnding(); !ending || !pidfd.PidfdEnded() || err != nil {
			t.Errorf("%s: %v, %v", when, ending, err)
		}
		cmd.Wait()
	}
}
