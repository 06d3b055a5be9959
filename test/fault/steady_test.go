package fault

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
	"fermata/internal/testkit/tools"
)

var steadyFlag = flag.Duration("steady", 5*time.Second, "how long a container writes without a daemon")

// steadyRate is in bytes a second.
const steadyRate = 5_000_000

// writer is the program of package writer, where containers can be given it.
func (w *world) writer(t *testing.T) string {
	t.Helper()
	binary, err := tools.Own(t.Context(), "test/fault/writer")
	check(t, err)
	b, err := os.ReadFile(binary)
	check(t, err)
	path := filepath.Join(w.Dir, "writer")
	check(t, os.WriteFile(path, b, 0o755))
	return path
}

// writerConfig is a container that runs it.
func writerConfig(path, name string, arguments ...string) *runtimeapi.ContainerConfig {
	config := cri.ContainerConfig(name, images.Busybox, append([]string{"/writer"}, arguments...)...)
	config.Mounts = []*runtimeapi.Mount{{HostPath: path, ContainerPath: "/writer", Readonly: true}}
	return config
}

// A container that logs much does not notice that there is no daemon: no write waits, no line is missing, and its exit is known afterwards.
func TestAWriterDoesNotNoticeThatThereIsNoDaemon(t *testing.T) {
	w := start(t, "")
	config := cri.PodConfig("steady", filepath.Join(w.Dir, "logs/steady"))
	pod, err := w.CRI.RunPod(t.Context(), config)
	check(t, err)
	id, err := w.CRI.Run(t.Context(), pod, config, writerConfig(w.writer(t), "main", "-rate", "5000000", "-for", steadyFlag.String(), "-exit", "3"))
	check(t, err)
	check(t, w.Kill())
	log := filepath.Join(config.GetLogDirectory(), "main.log")
	awaitLast(t, log, *steadyFlag+30*time.Second)
	check(t, w.Restart(t.Context()))
	status, err := w.CRI.WaitExited(t.Context(), id)
	check(t, err)
	if status.GetExitCode() != 3 {
		t.Errorf("it ended with %d: %s %s", status.GetExitCode(), status.GetReason(), status.GetMessage())
	}
	n, err := readNumbered(log)
	check(t, err)
	info, err := os.Stat(log)
	check(t, err)
	if !n.whole() || len(n.marks) > 0 || n.tooSlow() {
		t.Errorf("%v lines are logged of %v; fermata says %q; %d writes were blocked for over 10 ms", n.count, n.said, n.marks, n.blocked)
	}
	if atLeast := int64(float64(steadyRate) * steadyFlag.Seconds() * 0.95); info.Size() < atLeast {
		t.Errorf("only %d bytes are logged in %v: the writer did not come to write", info.Size(), *steadyFlag)
	}
	t.Logf("%d bytes in %d lines in %v: none missing; blocked over 10 ms: %d writes; kept from the processor so long: %d; the slowest took %d µs",
		info.Size(), n.count[0], *steadyFlag, n.blocked, n.slow-n.blocked, n.slowest)
	check(t, w.CRI.RemovePod(t.Context(), pod))
}

// awaitLast waits until a log has its writer's last line.
func awaitLast(t *testing.T, log string, limit time.Duration) {
	t.Helper()
	tail := make([]byte, 200)
	for began := time.Now(); time.Since(began) < limit; time.Sleep(20 * time.Millisecond) {
		f, err := os.Open(log)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		check(t, err)
		info, err := f.Stat()
		check(t, err)
		got, _ := f.ReadAt(tail, max(0, info.Size()-int64(len(tail))))
		f.Close()
		if bytes.Contains(tail[:got], []byte(" stdout F end ")) {
			return
		}
	}
	t.Fatalf("%s has no last line after %v", log, limit)
}
