package leak

import (
	"os/exec"
	"strings"
	"testing"

	"fermata/internal/linux"
)

func TestMain(m *testing.M) { Main(m) }

// Each kind of leak is made and must be found: a leak check that cannot fail is none.
func TestEachKindOfLeakIsFound(t *testing.T) {
	if before := goroutines(); len(before) != 0 {
		t.Fatalf("not clean to begin with: %v", before)
	}
	fd, err := linux.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() { <-stop }()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(append(linux.OpenFDs(), append(goroutines(), children()...)...), "\n")
	for _, want := range []string{"/ (fd", "TestEachKindOfLeakIsFound.func1", "(sleep)"} {
		if !strings.Contains(all, want) {
			t.Errorf("leak %q not found in:\n%s", want, all)
		}
	}
	fd.Close()
	close(stop)
	cmd.Process.Kill()
	cmd.Wait()
	if left := Left(); len(left) != 0 {
		t.Errorf("cleaned up, but still found: %v", left)
	}
}
