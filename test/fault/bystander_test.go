package fault

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// bystander is a pod that nothing asks anything of: whatever is done to fermata, it does not notice.
type bystander struct {
	w            *world
	pod, id      string
	logs         string
	pid, pausePI string
	ip           string
	conn         net.Conn
	answers      *bufio.Reader
	sent         int
}

// A server that answers each line with itself, beside a writer of numbered lines.
const bystanderScript = `i=0; (while :; do echo $i; i=$((i+1)); usleep 2000; done) & exec nc -ll -p 7 -e cat`

func newBystander(t *testing.T, w *world) *bystander {
	t.Helper()
	b := &bystander{w: w, logs: filepath.Join(w.Dir, "logs/bystander")}
	config := cri.PodConfig("bystander", b.logs)
	var err error
	b.pod, err = w.CRI.RunPod(t.Context(), config)
	check(t, err)
	b.id, err = w.CRI.Run(t.Context(), b.pod, config, cri.ContainerConfig("main", images.Busybox, "sh", "-c", bystanderScript))
	check(t, err)
	status, err := w.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: b.pod, Verbose: true})
	check(t, err)
	b.ip = status.GetStatus().GetNetwork().GetIp()
	b.pid, b.pausePI, err = b.pids(t.Context())
	check(t, err)
	for began := time.Now(); ; { // until it listens
		if b.conn, err = net.Dial("tcp", net.JoinHostPort(b.ip, "7")); err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Cleanup(func() { b.conn.Close() })
	b.answers = bufio.NewReader(b.conn)
	return b
}

// pids are the container's and the pause's, as fermata tells them.
func (b *bystander) pids(ctx context.Context) (container, pause string, err error) {
	c, err := b.w.CRI.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: b.id, Verbose: true})
	if err != nil {
		return "", "", err
	}
	if s := c.GetStatus(); s.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return "", "", fmt.Errorf("it is %v, exit code %d (%s: %s)", s.GetState(), s.GetExitCode(), s.GetReason(), s.GetMessage())
	}
	p, err := b.w.CRI.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: b.pod, Verbose: true})
	if err != nil {
		return "", "", err
	}
	if s := p.GetStatus(); s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() != b.ip {
		return "", "", fmt.Errorf("its pod is %v with address %s, was %s", s.GetState(), s.GetNetwork().GetIp(), b.ip)
	}
	return pidOf(c.GetInfo()["info"]), pidOf(p.GetInfo()["info"]), nil
}

// pidOf reads the member "pid" of verbose information.
func pidOf(info string) string {
	_, after, _ := strings.Cut(info, `"pid":`)
	digits := strings.TrimLeft(after, " ")
	return digits[:strings.IndexFunc(digits+",", func(r rune) bool { return r < '0' || r > '9' })]
}

// unharmed says what has become of it.
func (b *bystander) unharmed(ctx context.Context) error {
	pid, pause, err := b.pids(ctx)
	if err != nil {
		return err
	}
	if pid != b.pid || pause != b.pausePI {
		return fmt.Errorf("its PID is %s, was %s; pause's is %s, was %s", pid, b.pid, pause, b.pausePI)
	}
	b.sent++
	b.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(b.conn, b.sent); err != nil {
		return fmt.Errorf("its connection: %w", err)
	}
	line, err := b.answers.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != strconv.Itoa(b.sent) {
		return fmt.Errorf("its connection answers %q to %d: %w", line, b.sent, err)
	}
	return nil
}

// checkLog reads the log of numbered lines: none missing, none twice, none torn.
func (b *bystander) checkLog(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.logs, "main.log"))
	check(t, err)
	lines := strings.Split(string(raw), "\n")
	for i, line := range lines[:len(lines)-1] {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 || fields[2] != "F" || fields[3] != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
	t.Logf("%d lines of the bystander's log: none missing, none twice, none torn", len(lines)-1)
}
