// Package leak ends every package's tests with a look at what they left: descriptors, goroutines and child processes.
//
//	func TestMain(m *testing.M) { leak.Main(m) }
//
// What tests leave on the machine (mounts, links, cgroups, …) is checked by package testkit/machine.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"fermata/internal/linux"
)

// Settle is how long goroutines and children that are on their way out are waited for. Ending is asynchronous and has no event to
// wait on; nothing is decided by this time but how long a real leak takes to be reported.
const Settle = 5 * time.Second

// Main runs the tests and then fails the package if anything of this process's is left open or running.
func Main(m *testing.M) {
	linux.TraceFDs()
	code := m.Run()
	if code == 0 {
		if left := Left(); len(left) != 0 {
			fmt.Fprintf(os.Stderr, "LEAKED by the tests of this package:\n%s\n", strings.Join(left, "\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// Left lists what is open or running in this process that a finished test should not leave.
func Left() []string {
	deadline := time.Now().Add(Settle)
	for {
		left := append(linux.OpenFDs(), append(goroutines(), children()...)...)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// known are goroutines that the Go runtime or the test framework own, by a function on their stack.
var known = []string{
	"testing.Main", "testing.(*M).", "testing.tRunner", "testing.runFuzz", "testing.(*F)", "internal/fuzz.",
	"runtime.goexit0", "runtime.ensureSigM", "os/signal.signal_recv", "os/signal.loop", "created by runtime.",
	"k8s.io/klog/v2.(*flushDaemon)", "go.opencensus.io/stats/view.(*worker).start",
}

func goroutines() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for i, g := range strings.Split(string(buf), "\n\n") {
		if i == 0 || ours(g) { // the first is the caller
			continue
		}
		left = append(left, g)
	}
	return left
}

func ours(stack string) bool {
	for _, k := range known {
		if strings.Contains(stack, k) {
			return true
		}
	}
	return false
}

func children() []string {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	for _, t := range tasks {
		pids, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue // the thread ended meanwhile
		}
		for _, pid := range strings.Fields(string(pids)) {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			left = append(left, fmt.Sprintf("child process %s (%s)", pid, strings.TrimSpace(string(comm))))
		}
	}
	return left
}
