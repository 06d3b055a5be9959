package tools

import (
	"os"
	"strings"
	"testing"
)

// The programs are built by name and pinned by the tool lines: a name without its line would be built at whatever version another line
// happens to bring.
func TestEveryProgramOfKubernetesIsPinned(t *testing.T) {
	text, err := os.ReadFile("../../../" + kubernetes + "/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "tool (")
	block, _, _ := strings.Cut(rest, ")")
	pinned := map[string]bool{}
	for _, pkg := range strings.Fields(block) {
		pinned[pkg] = true
	}
	for program, pkg := range kubernetesPrograms {
		if !pinned[pkg] {
			t.Errorf("%s: %s has no tool line in %s/go.mod", program, pkg, kubernetes)
		}
		delete(pinned, pkg)
	}
	if len(pinned) != 0 {
		t.Errorf("tool lines of %s/go.mod that nobody builds: %v", kubernetes, pinned)
	}
}

func TestAProgramThatIsNotOfKubernetesIsRefused(t *testing.T) {
	if path, err := Kubernetes(t.Context(), "kube-proxy"); err == nil {
		t.Errorf("built %s", path)
	}
}
