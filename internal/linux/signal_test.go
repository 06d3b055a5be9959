package linux_test

import (
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/linux"
)

func TestIgnoredSignalsAreNotHandedOn(t *testing.T) {
	signal.Ignore(syscall.SIGUSR2)
	defer signal.Reset(syscall.SIGUSR2)
	ignored := func() string {
		out, err := exec.Command("grep", "SigIgn", "/proc/self/status").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	if got := ignored(); !strings.HasSuffix(got[:len(got)-2], "8") { // bit 11
		t.Fatalf("a child of a process that ignores SIGUSR2 has %q: the test would see nothing", got)
	}
	if err := linux.DefaultIgnoredSignals(); err != nil {
		t.Fatal(err)
	}
	if got := ignored(); got != "SigIgn:\t0000000000000000" {
		t.Errorf("handed on: %q", got)
	}
}
