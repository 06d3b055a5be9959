package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
	"fermata/internal/undo"
)

const (
	// execOutputLimit is what is kept of the output, in bytes, EXS-1 (CVE-2022-1708's class); the rest is read and dropped, the command goes on. The
	// kubelet takes messages of 16 MiB (GEN-2), and a kilobyte is the rest of the answer's.
	execOutputLimit = 16<<20 - 1<<10
	// execDrain is how long output is still read after the command itself has ended while something it left behind holds the pipes
	// (kubernetes #92057: an exec that never ended).
	execDrain = 500 * time.Millisecond
	// smallRead is enough for what most commands (probes) write, largeRead for those that write more, in bytes. At 50 probes a second two large
	// buffers each were most of what the collector had to collect.
	smallRead = 512
	largeRead = 32 << 10
	// launchHangs is how long a launch whose caller has given up may go on before it is killed.
	launchHangs = 2 * time.Second
)

// execution is one exec under way.
type execution struct {
	ended chan *Exit // buffered 1: the teller never waits; nil: nobody will ever know
	// launched and resynced are guarded by the manager's mutex: whether it runs, and whether the supervisor was replaced meanwhile.
	launched, resynced bool
}

// tell says how it ended, once; it may be told again after a reconnect.
func (x *execution) tell(e *Exit) {
	select {
	case x.ended <- e:
	default:
	}
}

// lose says that nobody will ever know how it ended.
func (x *execution) lose() { x.tell(nil) }

// ExecSync runs a command in a running container and returns what it wrote and its exit code. At the timeout (0: none) it is killed with all that
// it started, and the error is DeadlineExceeded.
func (m *Manager) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	if err := spec.CheckCommand(cmd); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	c, err := m.findContainer(id)
	if err != nil {
		return nil, err
	}
	r := c.snapshot()
	if r.State != StateRun {
		return nil, errs.New(errs.FailedPrecondition, "exec in container %s: it is %s, not running", c.id, r.State)
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	stdout, err := capture()
	if err != nil {
		return nil, err
	}
	defer stdout.close()
	stderr, err := capture()
	if err != nil {
		return nil, err
	}
	defer stderr.close()
	execID := c.id + "/" + newID()[:16]
	exit, err := m.execute(ctx, execCall{
		c: c, r: &r, id: execID, cmd: cmd, stdout: stdout.theirs, stderr: stderr.theirs, started: func(*Process) { stdout.started(); stderr.started() },
	})
	if err != nil {
		return nil, fmt.Errorf("exec %.200q in container %s: %w", strings.Join(cmd, " "), c.id, err)
	}
	until := time.Now().Add(execDrain)
	stdout.drain(until)
	stderr.drain(until)
	resp := &runtimeapi.ExecSyncResponse{ExitCode: int32(exit.Code)}
	resp.Stdout, resp.Stderr = fit(stdout.kept, stderr.kept)
	return resp, nil
}

// fit cuts what does not go into one answer: each stream has half of it for sure, and what the other leaves.
func fit(stdout, stderr []byte) ([]byte, []byte) {
	const half = execOutputLimit / 2
	stderr = stderr[:min(len(stderr), max(half, execOutputLimit-len(stdout)))]
	return stdout[:min(len(stdout), execOutputLimit-len(stderr))], stderr
}

// execCall is a command and where it is to run; the descriptors stay the caller's.
type execCall struct {
	c                     *Container
	r                     *ContainerRecord
	id                    string
	cmd                   []string
	tty                   bool
	size                  TerminalSize // zero: not known
	stdin, stdout, stderr *linux.FD
	// started is called once the process has its descriptors; with nil when it could not be launched.
	started func(*Process)
}

// execute starts the command and waits for its end or the context's, at which it is killed.
func (m *Manager) execute(ctx context.Context, e execCall) (Exit, error) {
	c, r, execID := e.c, e.r, e.id
	made, err := m.execSpecs.get(r.ID, func() (*specs.Spec, error) { return m.Records.ReadSpec(r.PodID, r.ID) })
	if err != nil {
		return Exit{}, err
	}
	group, err := m.execGroup(r)
	if err != nil {
		return Exit{}, err
	}
	init, err := c.init.dup(func() (*linux.FD, error) { return m.Supervisor.Pidfd(ctx, c.id) })
	if err != nil {
		return Exit{}, err
	}
	defer init.Close()
	// Not while another's end is the whole group's: that would be the end of this one too.
	if err := c.execGate.acquire(ctx); err != nil {
		return Exit{}, err
	}
	c.countExec(1)
	c.execGate.release()
	x := &execution{ended: make(chan *Exit, 1)}
	m.mu.Lock()
	m.execs[execID] = x
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.execs, execID)
		m.mu.Unlock()
		c.countExec(-1)
		m.forgetLater(execID)
	}()
	process := spec.Process(made, e.cmd, e.tty)
	if e.tty && e.size != (TerminalSize{}) {
		process.ConsoleSize = &specs.Box{Width: uint(e.size.Width), Height: uint(e.size.Height)}
	}
	proc, err := m.launchExec(ctx, &ExecStart{
		ID: execID, Spec: made, Process: process, Init: init, Cgroup: group, Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr,
	}, x)
	e.started(proc)
	if err != nil {
		return Exit{}, err
	}
	defer proc.Pidfd.Close()
	if ctx.Err() == nil { // else it was perhaps killed while it was launched: its exit is not of its own
		select {
		case exit := <-x.ended:
			return known(exit)
		case <-ctx.Done():
		}
	}
	m.killExec(c, r, proc, x)
	return Exit{}, errs.New(errs.KindOf(ctx.Err()), "command did not end in time and was killed: %w", ctx.Err())
}

// launchExec launches a command apart from its caller's end: a launch that is merely given up goes on, and its command would run with nobody to
// end it. At the end of ctx it is killed where it is.
func (m *Manager) launchExec(ctx context.Context, start *ExecStart, x *execution) (*Process, error) {
	apart := context.WithoutCancel(ctx)
	through := make(chan struct{})
	defer close(through)
	giveUp := context.AfterFunc(ctx, func() {
		// A launch takes milliseconds, and what came of it is found running, and killed, by execute. Only one that hangs is killed in the keeper.
		select {
		case <-through:
			return
		case <-time.After(launchHangs):
		}
		if err := m.Supervisor.Signal(apart, start.ID, syscall.SIGKILL); err != nil && !errs.Is(err, errs.NotFound) {
			m.Log.Error("kill a command that is being launched", "id", start.ID, "error", err)
		}
	})
	defer giveUp()
	var proc *Process
	err := undo.Step("exec/launch", func() (err error) { proc, err = m.Runtime.Exec(apart, start); return err })
	if ended := ctx.Err(); err != nil && ended != nil {
		return nil, errs.New(errs.KindOf(ended), "command was not launched in time: %w (%v)", ended, err)
	}
	if err != nil {
		if proc != nil { // launched, and then something went wrong: nobody would end it
			err = errors.Join(err, proc.Pidfd.Signal(syscall.SIGKILL), linux.CloseAll(proc.Pidfd, proc.Console))
		}
		return nil, err
	}
	m.mu.Lock()
	x.launched = true
	resynced := x.resynced
	m.mu.Unlock()
	if resynced {
		m.checkExec(apart, start.ID, x, nil)
	}
	return proc, nil
}

// known is how an exec ended, if anybody saw it.
func known(e *Exit) (Exit, error) {
	if e == nil {
		return Exit{}, errs.New(errs.Unavailable, "the keeper ended, and nobody saw how the command did")
	}
	return *e, nil
}

// killExec ends an exec and everything it started. Execs of a container share a cgroup: it is killed whole when this one is alone in it; beside
// others, this one's session and what descends from it is (docs/decisions/0004).
// It returns when the command has ended, or could not be made to for long: one that hangs in the kernel keeps no caller, nor the daemon's end.
func (m *Manager) killExec(c *Container, r *ContainerRecord, proc *Process, x *execution) {
	ctx, cancel := context.WithTimeout(context.Background(), reapLimit)
	defer cancel()
	err := m.killExecGroup(ctx, c, r, proc)
	if sent := proc.Pidfd.Signal(syscall.SIGKILL); !linux.IsGone(sent) {
		err = errors.Join(err, sent)
	}
	if err != nil {
		m.Log.Error("kill an exec that did not end in time", "container", c.id, "error", err)
	}
	select {
	case <-x.ended:
	case <-ctx.Done():
		m.Log.Error("an exec does not end though it was killed", "container", c.id, "pid", proc.PID)
	}
}

// killExecGroup kills what an exec started. No other begins while it looks whether there is one.
func (m *Manager) killExecGroup(ctx context.Context, c *Container, r *ContainerRecord, proc *Process) error {
	group, err := m.execGroup(r)
	if err != nil {
		return err
	}
	if err := c.execGate.acquire(ctx); err != nil {
		return err
	}
	defer c.execGate.release()
	if c.countExec(0) == 1 {
		return group.Kill(ctx)
	}
	return killSession(ctx, group.Processes, proc)
}

// killSession kills those of a cgroup's processes that are in the exec's session or descend from it. It looks again until it has found nobody new
// twice: a shell may start another command between the look and its own end, and a child that is being born is not in the list yet. One that starts processes
// faster than they are killed is left to its container's end when ctx ends: meanwhile nobody else can run a command there.
func killSession(ctx context.Context, list func() ([]int, error), proc *Process) error {
	killed := map[int]bool{}
	for quiet := 0; quiet < 2; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("kill the session of process %d: it started %d processes and starts more: %w", proc.PID, len(killed), err)
		}
		pids, err := list()
		if err != nil {
			return err
		}
		quiet++
		for _, pid := range linux.SessionMembers(pids, proc.PID) {
			if killed[pid] {
				continue
			}
			killed[pid], quiet = true, 0
			if err := killPID(pid); err != nil {
				return err
			}
		}
	}
	return nil
}

// killPID kills a process that may have ended.
func killPID(pid int) error {
	fd, err := linux.OpenPidfd(pid)
	if err != nil {
		return nil //nolint:nilerr // ended meanwhile
	}
	defer fd.Close()
	if err := fd.Signal(syscall.SIGKILL); err != nil && !linux.IsGone(err) {
		return err
	}
	return nil
}

// countExec changes the number of execs in the container and returns it.
func (c *Container) countExec(by int) int {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	c.execs += by
	return c.execs
}

// execEnded tells an exec's waiter how it ended.
func (m *Manager) execEnded(_ string, e Exit) {
	m.mu.RLock()
	x, ok := m.execs[e.ID]
	m.mu.RUnlock()
	if !ok {
		m.forgetLater(e.ID) // the daemon that asked for it is gone
		return
	}
	x.tell(&e)
}

// captured is one output stream of an exec being read into memory.
type captured struct {
	theirs *linux.FD
	ours   *os.File
	done   chan struct{}
	kept   []byte
}

// capture makes a pipe and starts reading it.
func capture() (*captured, error) {
	r, w, err := linux.OutputPipe()
	if err != nil {
		return nil, err
	}
	c := &captured{theirs: w, ours: r, done: make(chan struct{})}
	go c.read()
	return c, nil
}

func (c *captured) read() {
	defer close(c.done)
	buf := make([]byte, smallRead)
	for {
		n, err := c.ours.Read(buf)
		c.kept = append(c.kept, buf[:min(n, execOutputLimit-len(c.kept))]...)
		if err != nil {
			return // the end, the drain's deadline, or closed
		}
		if n == smallRead && len(buf) == smallRead {
			buf = make([]byte, largeRead)
		}
	}
}

// started closes the writing end here, so that the reading one ends with the command.
func (c *captured) started() { c.theirs.Close() }

// drain waits for the stream's end, but not for long.
func (c *captured) drain(until time.Time) {
	c.ours.SetReadDeadline(until)
	<-c.done
}

func (c *captured) close() {
	c.theirs.Close()
	c.ours.Close()
	<-c.done
}
