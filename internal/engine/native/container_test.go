package native_test

import (
	"strings"
	"testing"
)

func TestContainerRunsInThePodsNamespaces(t *testing.T) {
	p := newNode(t).pod(nil)
	out := p.run("pid", "hostname", "cwd", "fds", "ns", "umask", "env", "cat=/proc/self/status", "cat=/proc/self/mountinfo", "ls=/dev", "ls=/")
	t.Log(out)
	for _, want := range []string{"pid 1\n", "hostname pod-host\n", "cwd /\n", "umask 22\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in its output", want)
		}
	}
}
