package fault

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// On a full disk containers go on, what their logs lack is counted and said, no pod is half made, and what there is can be used, stopped and removed.
func TestAFullDisk(t *testing.T) {
	var mounts []string
	w := start(t, "", func(dir string) {
		for name, size := range map[string]string{"r": "96m", "logs": "8m"} {
			path := filepath.Join(dir, name)
			check(t, os.Mkdir(path, 0o755))
			check(t, syscall.Mount("fermata-test", path, "tmpfs", 0, "size="+size))
			mounts = append(mounts, path)
			t.Cleanup(func() {
				if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
				os.RemoveAll(dir)
			})
		}
	})
	first, err := w.CRI.RunPod(t.Context(), cri.PodConfig("first", ""))
	check(t, err)
	check(t, w.CRI.RemovePod(t.Context(), first))
	w.baseline(t)
	config := cri.PodConfig("full", filepath.Join(w.Dir, "logs/full"))
	pod, err := w.CRI.RunPod(t.Context(), config)
	check(t, err)
	writer, err := w.CRI.Run(t.Context(), pod, config, writerConfig(w.writer(t), "writer", "-rate", "1000000", "-exit", "9"))
	check(t, err)
	other, err := w.CRI.Run(t.Context(), pod, config, cri.ContainerConfig("other", images.Busybox, "sh", "-c", "trap 'exit 7' TERM; touch /tmp/up; while :; do sleep 1000 & wait; done"))
	check(t, err)
	_, err = w.CRI.Exec(t.Context(), other, "sh", "-c", "until [ -e /tmp/up ]; do usleep 1000; done")
	check(t, err)
	var fillers []string
	for _, m := range mounts {
		fillers = append(fillers, fill(t, m))
	}

	_, err = w.CRI.RunPod(t.Context(), cri.PodConfig("more", ""))
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("a pod on a full disk: %v", err)
	}
	if out, err := w.CRI.Exec(t.Context(), other, "echo", "hello"); err != nil || out != "hello\n" {
		t.Errorf("exec on a full disk: %q, %v", out, err)
	}
	_, err = w.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: other, Timeout: 20})
	check(t, err)
	if s, err := w.CRI.State(t.Context(), other); err != nil || s.GetExitCode() != 7 {
		t.Errorf("stopped on a full disk: %v, %v", s, err)
	}
	_, err = w.CRI.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: other})
	check(t, err)
	// The writer has had its log refused for a while, and has not noticed.
	if _, err := w.CRI.Exec(t.Context(), writer, "sleep", "1"); err != nil {
		t.Errorf("exec beside the writer: %v", err)
	}
	for _, f := range fillers {
		check(t, os.Remove(f))
	}
	if _, err := w.CRI.Exec(t.Context(), writer, "sleep", "0.5"); err != nil { // in which it goes on, and its log too
		t.Errorf("exec beside the writer: %v", err)
	}
	_, err = w.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: writer, Timeout: 20})
	check(t, err)
	if s, err := w.CRI.State(t.Context(), writer); err != nil || s.GetExitCode() != 9 {
		t.Errorf("the writer: %v, %v", s, err)
	}
	n, err := readNumbered(filepath.Join(config.GetLogDirectory(), "writer.log"))
	check(t, err)
	if !n.whole() || n.tooSlow() || n.lost == 0 {
		t.Errorf("%v lines of %v; %d writes were blocked for over 10 ms; marks: %q", n.count, n.said, n.blocked, n.marks)
	}
	t.Logf("%v lines written, %d writes blocked for over 10 ms; the log says: %q", n.said, n.blocked, n.marks)
	check(t, w.CRI.RemovePod(t.Context(), pod))
	if said, err := w.Doctor(t.Context()); err != nil {
		t.Errorf("doctor: %v\n%s", err, said)
	}
	left, err := w.left(t.Context())
	check(t, err)
	if len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
}

// fill writes a file until the filesystem has no room.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else {
			check(t, err)
		}
	}
	return path
}
