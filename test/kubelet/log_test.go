package kubelet

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	{`"failed to check if node is newer; using informer node"`, "a kubelet alone has a node without a version"},
	{`"ExecSync cmd from runtime service failed" err="rpc error: code = DeadlineExceeded .*sleep 4321`, "a probe that is too slow on purpose"},
	{`"Unable to process watch event" err="the pod with key .* doesn't exist in cache"|"Could not get metadata" err="stat .*/manifests/`,
		"that a manifest was removed is seen twice: by inotify, and by looking each second"},
	{`"Image garbage collection failed once. Stats initialization may not have completed yet" err="invalid capacity 0`,
		"it collects before it has measured the disk for the first time"},
	{`Failed to get network devices: open /sys/class/net/`, "it reads of a pod's link while that goes away with the pod"},
	{`"Partial failure issuing cadvisor.ContainerInfoV2".*unable to find data in memory cache`, "cAdvisor has not yet read a cgroup that is new"},
	{`Failed to watch directory "/sys/fs/cgroup/.*no such file or directory`, "cAdvisor watches every cgroup of the machine, also such as go away meanwhile"},
	{`summary_sys_containers.go:\d+\] "Failed to get system container stats"|"Eviction manager: failed to construct signal" err="system container`,
		"cAdvisor has not yet seen the cgroups that the kubelet made when it started"},
	{`"Housekeeping took longer than expected"`, "the machine is busy with all pods starting at once"},
	{`err="rpc error: code = Canceled desc = context canceled"$`, "a call that the kubelet gave up when it was told to end"},
	{`with CrashLoopBackOff`, "containers that fail on purpose"},
	{`PostStart.*exit 4`, "a hook that fails on purpose"},
	{`NotFound desc = find container`, "the kubelet asks for containers that it has removed itself a moment before"},
}

// errorsOf returns the error lines of a kubelet's log that are not harmless. Excused are those that a test provokes.
func errorsOf(t testing.TB, path string, excused []string) []string {
	t.Helper()
	log, err := os.Open(path)
	check(t, err)
	defer log.Close()
	patterns := slices.Clone(excused)
	for _, h := range harmless {
		patterns = append(patterns, h.line)
	}
	expected := regexp.MustCompile(strings.Join(patterns, "|"))
	var bad []string
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if isError.MatchString(lines.Text()) && !expected.MatchString(lines.Text()) {
			bad = append(bad, lines.Text())
		}
	}
	check(t, lines.Err())
	return bad
}

// isError is klog's header of errors and fatal errors ("E1123 18:20:00.000000 …"), or how Go begins to tell of a panic.
var isError = regexp.MustCompile(`^[EF]\d{4} |^panic: |^fatal error: `)

func TestAnErrorOfTheRuntimeIsNotTakenForHarmless(t *testing.T) {
	const header = "E1123 18:25:12.188809    6638 "
	lines := []struct {
		line string
		bad  bool
	}{
		{header + `kubelet.go:2697] "Skipping pod synchronization" err="container runtime is down"`, true},
		{header + `kubelet.go:2697] "Skipping pod synchronization" err="PLEG is not healthy: pleg was last seen active 3m1s ago"`, true},
		{header + `kubelet.go:2697] "Skipping pod synchronization" err="[container runtime status check may not have completed yet]"`, false},
		{header + `remote_runtime.go:193] "RunPodSandbox from runtime service failed" err="rpc error: code = Unknown desc = x"`, true},
		{header + `remote_runtime.go:724] "ExecSync cmd from runtime service failed" err="rpc error: code = DeadlineExceeded desc = x" cmd=["true"]`, true},
		{header + `remote_runtime.go:724] "ExecSync cmd from runtime service failed" err="rpc error: code = Unavailable desc = provoked"`, false},
		{"W1123 18:25:12.188809    6638 a.go:1] not an error", false},
		{"panic: and what follows has no header", true},
	}
	file := filepath.Join(t.TempDir(), "kubelet.log")
	var text, want []string
	for _, l := range lines {
		text = append(text, l.line)
		if l.bad {
			want = append(want, l.line)
		}
	}
	check(t, os.WriteFile(file, []byte(strings.Join(text, "\n")), 0o644))
	if got := errorsOf(t, file, []string{"provoked"}); !slices.Equal(got, want) {
		t.Errorf("errors:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
