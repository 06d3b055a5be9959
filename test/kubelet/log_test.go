package kubelet

import (
	"bufio"
	"os"
	"regexp"
	"testing"
)

// harmless are errors in a kubelet's log that are not the runtime's doing, each with its reason.
var harmless = []struct{ line, why string }{
	{`"Skipping pod synchronization" err="\[?(container runtime status check may not have completed yet|PLEG is not healthy: pleg has yet to be successful)`,
		"the kubelet begins its loop before it has asked the runtime for the first time"},
	{`"Failed to read data from checkpoint" err="checkpoint is not found"`, "its directory is new"},
	{`"Failed to ensure process in container with oom score" err="failed to find pid namespace of init process"`,
		"a machine for tests may hide /proc/1/ns"},
	{`failed to check if we have separate container filesystem. Ignoring.*no imagefs label for configured runtime`,
		"the label is for runtimes that cAdvisor knows by name; containerd has none either"},
}

// errorsOf returns the error lines of a kubelet's log that are not harmless.
func errorsOf(t testing.TB, path string) []string {
	t.Helper()
	log, err := os.Open(path)
	check(t, err)
	defer log.Close()
	var bad []string
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if isError.MatchString(lines.Text()) && !isHarmless(lines.Text()) {
			bad = append(bad, lines.Text())
		}
	}
	return bad
}

// isError is klog's header of errors and fatal errors: "E1123 18:20:00.000000 …".
var isError = regexp.MustCompile(`^[EF]\d{4} `)

func isHarmless(line string) bool {
	for _, h := range harmless {
		if regexp.MustCompile(h.line).MatchString(line) {
			return true
		}
	}
	return false
}
