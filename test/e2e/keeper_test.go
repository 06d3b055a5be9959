package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/keeper/client"
	"fermata/internal/testkit/cri"
)

// keeper is the PID of the node's keeper; 0 without one.
func (w *world) keeper() int {
	for _, pid := range w.Processes() {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if pid != w.PID() && strings.HasPrefix(filepath.Base(exe), "fermata-keeper") {
			return pid
		}
	}
	return 0
}

// killKeeper kills the keeper and waits for the next, which is there once a command runs. It returns how long that took. A command that is on its way to the keeper
// when that is killed may have run or not, and fails.
func (w *world) killKeeper(t *testing.T, container string) time.Duration {
	t.Helper()
	old := w.keeper()
	if old == 0 { // which kill(2) takes for everybody here
		t.Fatal("there is no keeper")
	}
	began := time.Now()
	check(t, syscall.Kill(old, syscall.SIGKILL))
	eventually(t, "a command runs", func() (bool, string) {
		_, err := w.CRI.Exec(t.Context(), container, "true")
		return err == nil, fmt.Sprint(err)
	})
	took := time.Since(began)
	if now := w.keeper(); now == old || now == 0 {
		t.Fatalf("the keeper was %d and is %d", old, now)
	}
	return took
}

// load are pods under a keeper that is killed.
type load struct {
	n           *world
	pods        []*podOf
	writers     []string
	terminals   []string
	pids        map[string]string // by container
	conn        net.Conn
	echo        *bufio.Reader
	lines, said int
}

// startLoad runs pods, each with a container that writes numbered lines to both streams until a file appears, and then exits with its number; one with a terminal does so too, one
// answers a TCP connection that stays open.
func startLoad(t *testing.T, n *world, pods int) *load {
	t.Helper()
	l := &load{n: n, pids: map[string]string{}}
	mount := []*runtimeapi.Mount{{HostPath: n.Dir, ContainerPath: "/host", Readonly: true}}
	for i := range pods {
		p, _ := pod(t, n, fmt.Sprintf("held%d", i))
		l.pods = append(l.pods, p)
		writer := shell("writer", fmt.Sprintf("i=0; while ! [ -e /host/end ]; do i=$((i+100)); seq $((i-99)) $i; echo err $i >&2; sleep 0.02; done; echo last $i; exit %d", i+1))
		writer.Mounts = mount
		l.writers = append(l.writers, p.run(t, writer))
		terminal := shell("terminal", fmt.Sprintf("i=0; while ! [ -e /host/end ]; do i=$((i+1)); echo tick $i; sleep 0.02; done; exit %d", i+101))
		terminal.Mounts, terminal.Tty = mount, true
		l.terminals = append(l.terminals, p.run(t, terminal))
	}
	server := shell("server", "nc -l -p 7000 -e cat")
	l.pods[0].run(t, server)
	status, err := n.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: l.pods[0].id})
	check(t, err)
	eventually(t, "the server listens", func() (bool, string) {
		l.conn, err = net.Dial("tcp", net.JoinHostPort(status.GetStatus().GetNetwork().GetIp(), "7000"))
		return err == nil, fmt.Sprint(err)
	})
	t.Cleanup(func() { l.conn.Close() })
	l.echo = bufio.NewReader(l.conn)
	for _, id := range append(l.writers, l.terminals...) {
		l.pids[id] = l.pid(t, id)
	}
	return l
}

// pid is a container's first process's, as the host sees it.
func (l *load) pid(t *testing.T, id string) string {
	t.Helper()
	status, err := l.n.CRI.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	check(t, err)
	return status.GetInfo()["info"]
}

// checkRunning looks whether all is as it was.
func (l *load) checkRunning(t *testing.T, terminals bool) {
	t.Helper()
	all := l.writers
	if terminals {
		all = append(all, l.terminals...)
	}
	for _, id := range all {
		status, err := l.n.CRI.State(t.Context(), id)
		check(t, err)
		if status.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s is %v: %s %s", id, status.GetState(), status.GetReason(), status.GetMessage())
		}
	}
	for _, p := range l.pods {
		status, err := l.n.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		check(t, err)
		if status.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
			t.Errorf("pod %s is %v", p.id, status.GetStatus().GetState())
		}
	}
	l.said++
	fmt.Fprintf(l.conn, "still there %d\n", l.said)
	l.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := l.echo.ReadString('\n'); err != nil || got != fmt.Sprintf("still there %d\n", l.said) {
		t.Errorf("the connection says %q, %v", got, err)
	}
}

// checkEnd has the containers end and looks at their exits and every line of their logs.
func (l *load) checkEnd(t *testing.T, terminals bool) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(l.n.Dir, "end"), nil, 0o644))
	for i, id := range l.writers {
		status, err := l.n.CRI.WaitExited(t.Context(), id)
		check(t, err)
		if status.GetExitCode() != int32(i+1) {
			t.Errorf("writer %d ended with %d: %s %s", i, status.GetExitCode(), status.GetReason(), status.GetMessage())
		}
		l.checkLog(t, l.pods[i])
	}
	if !terminals {
		return
	}
	for i, id := range l.terminals {
		status, err := l.n.CRI.WaitExited(t.Context(), id)
		check(t, err)
		if status.GetExitCode() != int32(i+101) {
			t.Errorf("terminal %d ended with %d: %s %s", i, status.GetExitCode(), status.GetReason(), status.GetMessage())
		}
		for k, line := range l.pods[i].lines(t, "terminal") {
			if want := fmt.Sprintf("stdout tick %d", k+1); line != want {
				t.Errorf("terminal %d: line %d is %q, want %q", i, k+1, line, want)
				break
			}
		}
	}
}

// checkLog reads what a writer wrote: each line once and in its stream's order, to the last.
func (l *load) checkLog(t *testing.T, p *podOf) {
	t.Helper()
	name, out, odd, last := p.config.GetMetadata().GetName(), 0, 0, ""
	for _, line := range p.lines(t, "writer") {
		l.lines++
		switch {
		case strings.HasPrefix(line, "stdout ") && line[len("stdout ")] != 'l':
			if out++; line != fmt.Sprintf("stdout %d", out) {
				t.Errorf("%s: line %d of stdout is %q", name, out, line)
				return
			}
		case strings.HasPrefix(line, "stderr err "):
			if odd += 100; line != fmt.Sprintf("stderr err %d", odd) {
				t.Errorf("%s: line %d of stderr is %q", name, odd/100, line)
				return
			}
		default:
			last = line
		}
	}
	if out != odd || last != fmt.Sprintf("stdout last %d", out) {
		t.Errorf("%s: %d lines of stdout, %d of stderr, the last is %q", name, out, odd/100, last)
	}
}

// A killed keeper is followed by one that goes on where it was: nothing that runs notices.
func TestAKilledKeeperIsReplaced(t *testing.T) {
	n := start(t)
	l := startLoad(t, n, atMost(20))
	var took []time.Duration
	for range 5 {
		took = append(took, n.killKeeper(t, l.writers[0]))
		l.checkRunning(t, true)
	}
	for id, pid := range l.pids {
		if now := l.pid(t, id); now != pid {
			t.Errorf("%s was %s and is %s", id, pid, now)
		}
	}
	out, err := n.CRI.Exec(t.Context(), l.terminals[0], "echo", "-n", "hello")
	if err != nil || out != "hello" {
		t.Errorf("exec: %q, %v", out, err)
	}
	l.checkEnd(t, true)
	t.Logf("keeper killed to exec answered: %v; %d lines checked", took, l.lines)
}

// With the daemon killed too, the next daemon brings the next keeper; only terminals, which nobody held, hang up. (What has one goes on: as the first process of a
// PID namespace it need not heed SIGHUP.)
func TestKeeperAndDaemonMayBothBeKilled(t *testing.T) {
	n := start(t)
	l := startLoad(t, n, atMost(10))
	ends := shell("ends", "while ! [ -e /host/now ]; do sleep 0.01; done; exit 77")
	ends.Mounts = []*runtimeapi.Mount{{HostPath: n.Dir, ContainerPath: "/host", Readonly: true}}
	ender := l.pods[0].run(t, ends)
	keeper := n.keeper()
	if keeper == 0 {
		t.Fatal("there is no keeper")
	}
	check(t, n.Kill())
	check(t, syscall.Kill(keeper, syscall.SIGKILL))
	check(t, os.WriteFile(filepath.Join(n.Dir, "now"), nil, 0o644)) // it ends while nobody is there
	eventually(t, "the container has ended", func() (bool, string) { return !alive(t, ender), "it lives" })
	check(t, n.Restart(t.Context()))
	l.checkRunning(t, false)
	status, err := n.CRI.WaitExited(t.Context(), ender)
	check(t, err)
	if status.GetExitCode() != 77 || status.GetReason() != "Error" {
		t.Errorf("what ended in between: code %d, %s, %s", status.GetExitCode(), status.GetReason(), status.GetMessage())
	}
	l.checkEnd(t, false)
	for i, id := range l.terminals {
		status, err := n.CRI.WaitExited(t.Context(), id)
		check(t, err)
		if status.GetExitCode() != int32(i+101) || !strings.Contains(status.GetMessage(), "terminal had hung up") {
			t.Errorf("terminal %d ended with %d: %s %s", i, status.GetExitCode(), status.GetReason(), status.GetMessage())
		}
	}
	t.Logf("%d lines checked", l.lines)
}

// A daemon of another version finds a keeper of another version, and has it become its own in place.
func TestANewDaemonUpgradesTheKeeper(t *testing.T) {
	n := start(t)
	l := startLoad(t, n, atMost(5))
	check(t, n.Kill())
	keeper := n.keeper()
	exe := fmt.Sprintf("/proc/%d/exe", keeper)
	embedded, err := os.Readlink(exe)
	check(t, err)
	other := filepath.Join(n.Dir, "other", "fermata-keeper")
	check(t, os.Mkdir(filepath.Dir(other), 0o755))
	b, err := os.ReadFile(embedded)
	check(t, err)
	check(t, os.WriteFile(other, b, 0o755))
	sockets, err := filepath.Glob(n.Dir + "/*/keeper.sock")
	if err != nil || len(sockets) != 1 {
		t.Fatalf("keeper's sockets %v, %v", sockets, err)
	}
	c, err := client.Dial(t.Context(), client.Options{Socket: sockets[0]})
	check(t, err)
	defer c.Close()
	check(t, c.Upgrade(t.Context(), other))
	if now, err := os.Readlink(exe); now != other {
		t.Fatalf("the keeper is %s, %v", now, err)
	}
	check(t, n.Restart(t.Context()))
	if now, err := os.Readlink(exe); now != embedded {
		t.Errorf("the keeper is %s, %v", now, err)
	}
	if now := n.keeper(); now != keeper {
		t.Errorf("the keeper was %d and is %d", keeper, now)
	}
	l.checkRunning(t, true)
	l.checkEnd(t, true)
	t.Logf("%d lines checked", l.lines)
}

// alive looks for a process with the container's cgroup.
func alive(t *testing.T, id string) bool {
	t.Helper()
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	check(t, err)
	for _, g := range groups {
		b, err := os.ReadFile(g)
		if err != nil || !strings.Contains(string(b), id) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(g), "stat"))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return true
		}
	}
	return false
}

// pausePID is the PID of a pod's pause, from its verbose status, and what that says of the last one.
func (p *podOf) pause(t *testing.T) (pid int, state runtimeapi.PodSandboxState, message string) {
	t.Helper()
	status, err := p.n.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	check(t, err)
	var info struct {
		PID     int    `json:"pid"`
		Message string `json:"message"`
	}
	check(t, json.Unmarshal([]byte(status.GetInfo()["info"]), &info))
	if info.PID <= 0 { // which kill(2) takes for others
		t.Fatalf("pause is process %d", info.PID)
	}
	return info.PID, status.GetStatus().GetState(), info.Message
}

// A pod does not end with its pause: another is put into its namespaces, and nothing that runs there notices.
func TestAKilledPauseIsReplaced(t *testing.T) {
	n := start(t)
	l := startLoad(t, n, 2)
	p := l.pods[0]
	before, err := n.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	check(t, err)
	var took []time.Duration
	for range 3 {
		old, _, _ := p.pause(t)
		began := time.Now()
		check(t, syscall.Kill(old, syscall.SIGKILL))
		eventually(t, "another pause is there", func() (bool, string) {
			now, state, message := p.pause(t)
			if state != runtimeapi.PodSandboxState_SANDBOX_READY {
				t.Fatalf("the pod is %v: %s", state, message)
			}
			return now != old && strings.Contains(message, "killed by signal 9"), fmt.Sprint(now, " ", message)
		})
		took = append(took, time.Since(began))
		l.checkRunning(t, true)
	}
	t.Logf("pause killed to its follower seen: %v", took)
	after, err := n.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	check(t, err)
	if a, b := before.GetStatus().GetNetwork().GetIp(), after.GetStatus().GetNetwork().GetIp(); a != b {
		t.Errorf("the pod's address was %s and is %s", a, b)
	}
	for id, pid := range l.pids {
		if now := l.pid(t, id); now != pid {
			t.Errorf("%s was %s and is %s", id, pid, now)
		}
	}
	// A container that comes later is in the same namespaces.
	late := p.run(t, shell("late", "cat /proc/1/comm; sleep 1000"))
	out, err := n.CRI.Exec(t.Context(), late, "sh", "-c", "for k in net uts ipc; do readlink /proc/1/ns/$k; done; hostname; df /dev/shm | tail -n 1")
	check(t, err)
	same, err := n.CRI.Exec(t.Context(), l.writers[0], "sh", "-c", "for k in net uts ipc; do readlink /proc/1/ns/$k; done; hostname; df /dev/shm | tail -n 1")
	check(t, err)
	if out != same {
		t.Errorf("a later container is in %q, an earlier one in %q", out, same)
	}
	l.checkEnd(t, true)

	// It died while no daemon ran: the next one puts another in its place.
	q := l.pods[1]
	old, _, _ := q.pause(t)
	check(t, n.Kill())
	check(t, syscall.Kill(old, syscall.SIGKILL))
	check(t, n.Restart(t.Context()))
	eventually(t, "another pause is there", func() (bool, string) {
		now, state, message := q.pause(t)
		return now != old && state == runtimeapi.PodSandboxState_SANDBOX_READY, fmt.Sprint(now, " ", state, " ", message)
	})
}

// The kernel ends all processes of a PID namespace with its first one: a pod that shares one is not ready, and says why.
func TestAPodThatSharesItsPIDNamespaceEndsWithItsPause(t *testing.T) {
	n := start(t)
	name := "shares"
	config := cri.PodConfig(name, filepath.Join(n.Dir, "logs", name))
	config.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD},
	}}
	id, err := n.CRI.RunPod(t.Context(), config)
	check(t, err)
	p := &podOf{n: n, id: id, config: config, logs: filepath.Join(n.Dir, "logs", name)}
	ctr := shell("main", "sleep 1000")
	ctr.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions}}
	main := p.run(t, ctr)
	pid, _, _ := p.pause(t)
	check(t, syscall.Kill(pid, syscall.SIGKILL))
	status, err := n.CRI.WaitExited(t.Context(), main)
	check(t, err)
	if status.GetExitCode() != 137 {
		t.Errorf("the container ended with %d: %s", status.GetExitCode(), status.GetMessage())
	}
	eventually(t, "the pod is not ready and says why", func() (bool, string) {
		_, state, message := p.pause(t)
		return state == runtimeapi.PodSandboxState_SANDBOX_NOTREADY && strings.Contains(message, "signal 9") && strings.Contains(message, "PID namespace"), fmt.Sprint(state, " ", message)
	})
}

func TestAKilledPauseOfAUserNamespaceIsReplaced(t *testing.T) {
	n := start(t)
	p := mappedPod(t, n, "mapped")
	first := p.run(t, p.mappedShell("first", "sleep 1000"))
	look := []string{"sh", "-c", "for k in user net ipc; do readlink /proc/1/ns/$k; done; id -u; cat /proc/1/uid_map"}
	before, err := n.CRI.Exec(t.Context(), first, look...)
	check(t, err)
	old, _, _ := p.pause(t)
	check(t, syscall.Kill(old, syscall.SIGKILL))
	eventually(t, "another pause is there", func() (bool, string) {
		now, state, message := p.pause(t)
		if state != runtimeapi.PodSandboxState_SANDBOX_READY {
			t.Fatalf("the pod is %v: %s", state, message)
		}
		return now != old, message
	})
	now, _, _ := p.pause(t)
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", now))
	check(t, err)
	if !strings.Contains(before, ns) {
		t.Errorf("pause is in %s, containers in %q", ns, before)
	}
	second := p.run(t, p.mappedShell("second", "sleep 1000"))
	for _, id := range []string{first, second} {
		if got, err := n.CRI.Exec(t.Context(), id, look...); err != nil || got != before {
			t.Errorf("a container is in %q, %v; before it was %q", got, err, before)
		}
	}
}
