package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/testkit/cri"
	"fermata/test/fault/lines"
)

// torturer is one client. It knows what its pods and containers are to be like.
type torturer struct {
	*torture
	random *rand.Rand
	name   string
	client fermatav1.FermataClient
	made   int
	pods   []*victim
}

// victim is a pod.
type victim struct {
	config     *runtimeapi.PodSandboxConfig
	id, ip     string
	containers []*subject
}

// subject is a container: a writer of numbered lines.
type subject struct {
	pod    *victim
	config *runtimeapi.ContainerConfig
	id     string
	code   int32
	state  runtimeapi.ContainerState // as far as the client has done something about it: what runs may have ended by itself
	files  []string                  // of its log, before the present one
	killed bool                      // by the client's removing it
}

const (
	mostPods, mostContainers = 2, 4
	hang                     = 60 * time.Second
	endedLimit               = 10 * time.Second
)

// operation is something that a client can do: weight says how often it does, can whether it can now.
type operation struct {
	name   string
	weight int
	can    func(*torturer) bool
	do     func(*torturer) error
}

var operations = []operation{
	{"run", 15, func(c *torturer) bool { return len(c.pods) < mostPods }, (*torturer).runPod},
	{"create", 25, func(c *torturer) bool { return c.roomy() != nil }, (*torturer).create},
	{"start", 40, func(c *torturer) bool { return c.any(created) != nil }, (*torturer).start},
	{"exec", 12, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).exec},
	{"wait", 12, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).wait},
	{"stop", 8, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).stop},
	{"reopen", 8, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).reopen},
	{"attach", 6, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).attach},
	{"logs", 6, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).logs},
	{"stats", 4, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).stats},
	{"list", 8, func(c *torturer) bool { return len(c.pods) > 0 }, (*torturer).list},
	{"status", 8, func(c *torturer) bool { return len(c.pods) > 0 }, (*torturer).status},
	{"remove", 20, func(c *torturer) bool { return c.any(exited) != nil }, (*torturer).remove},
	{"force", 2, func(c *torturer) bool { return c.any(running) != nil }, (*torturer).force},
	{"end", 3, func(c *torturer) bool { return len(c.pods) > 0 }, (*torturer).removePod},
}

const (
	created = runtimeapi.ContainerState_CONTAINER_CREATED
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
)

func newTorturer(to *torture, conn *grpc.ClientConn, i int) *torturer {
	return &torturer{torture: to, client: fermatav1.NewFermataClient(conn), random: rand.New(rand.NewPCG(*seedFlag, uint64(i))), name: fmt.Sprintf("client%d", i)}
}

// work does random things until all clients together have done enough, and then takes away what it made.
func (c *torturer) work() {
	for !c.enough() && !c.t.Failed() {
		op := c.choose()
		began := time.Now()
		if err := op.do(c); err != nil {
			c.t.Errorf("%s, operation %d: %s: %v", c.name, c.tally.ops.Load(), op.name, err)
			return
		}
		c.did(op.name, time.Since(began))
	}
	for len(c.pods) > 0 {
		for _, s := range slices.Clone(c.pods[0].containers) {
			if s.state != running {
				continue
			}
			if err := c.finish(s); err != nil {
				c.t.Errorf("%s, at the end: %v", c.name, err)
				return
			}
		}
		if err := c.removeThis(c.pods[0]); err != nil {
			c.t.Errorf("%s, at the end: %v", c.name, err)
			return
		}
	}
}

// enough says that there were as many operations and lines as there should be, or that there were so many operations that the lines will not come.
func (c *torturer) enough() bool {
	ops := int(c.tally.ops.Load())
	return ops >= *opsFlag && int(c.tally.lines.Load()) >= *linesFlag || ops >= 4**opsFlag
}

func (c *torturer) choose() (chosen operation) {
	sum := 0
	for _, op := range operations {
		if op.can(c) {
			if sum += op.weight; c.random.IntN(sum) < op.weight {
				chosen = op
			}
		}
	}
	return chosen
}

// any is one of the containers in a state; nil if there is none.
func (c *torturer) any(state runtimeapi.ContainerState) *subject {
	var found []*subject
	for _, p := range c.pods {
		for _, s := range p.containers {
			if s.state == state {
				found = append(found, s)
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found[c.random.IntN(len(found))]
}

func (c *torturer) roomy() *victim {
	for _, p := range c.pods {
		if len(p.containers) < mostContainers {
			return p
		}
	}
	return nil
}

// ask makes a request; again, if something was killed in its time.
func (c *torturer) ask(do func(ctx context.Context) error) error {
	for began := time.Now(); ; {
		kills := c.kills.Load()
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		err := do(ctx)
		cancel()
		if err == nil || isWrong(err) || status.Code(err) == codes.FailedPrecondition || kills%2 == 0 && c.kills.Load() == kills || time.Since(began) > hang {
			return err
		}
		c.tally.retries.Add(1)
		time.Sleep(time.Millisecond) // the daemon is being started
	}
}

func (c *torturer) runPod() error {
	c.made++
	name := fmt.Sprintf("%s-%d", c.name, c.made)
	p := &victim{config: cri.PodConfig(name, filepath.Join(c.w.Dir, "logs", name))}
	err := c.ask(func(ctx context.Context) (err error) {
		p.id, err = c.w.CRI.RunPod(ctx, p.config)
		return err
	})
	if err != nil {
		return err
	}
	c.pods = append(c.pods, p)
	return c.ask(func(ctx context.Context) error {
		status, err := c.w.CRI.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		p.ip = status.GetStatus().GetNetwork().GetIp()
		return err
	})
}

func (c *torturer) create() error {
	p := c.roomy()
	c.made++
	s := &subject{pod: p, code: int32(1 + c.random.IntN(120)), state: created}
	s.config = writerConfig(c.writer, fmt.Sprintf("c%d", c.made), "-lines", strconv.Itoa(c.quota/2+c.random.IntN(c.quota+1)),
		"-seed", strconv.Itoa(c.random.Int()), "-exit", strconv.Itoa(int(s.code)))
	err := c.ask(func(ctx context.Context) (err error) {
		s.id, err = c.w.CRI.Create(ctx, p.id, p.config, s.config)
		return err
	})
	if err == nil {
		p.containers = append(p.containers, s)
	}
	return err
}

// start starts a container as the kubelet does: one whose start failed is replaced by the next attempt.
func (c *torturer) start() error {
	s := c.any(created)
	failed := "" // the container whose start failed
	err := c.ask(func(ctx context.Context) (err error) {
		if failed == "" {
			now, err := c.w.CRI.State(ctx, s.id)
			switch {
			case err != nil:
				return err
			case now.GetState() == running || now.GetState() == exited && now.GetReason() != "StartError": // the answer was lost, not the start
				return nil
			case now.GetState() == created:
				return c.w.CRI.Start(ctx, s.id)
			}
			failed = s.id
			s.config.Metadata.Attempt++
			s.config.LogPath = fmt.Sprintf("%s.%d.log", s.config.GetMetadata().GetName(), s.config.GetMetadata().GetAttempt())
		}
		if _, err := c.w.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: failed}); err != nil {
			return err
		}
		if s.id, err = c.w.CRI.Create(ctx, s.pod.id, s.pod.config, s.config); err != nil {
			return err
		}
		failed = ""
		return c.w.CRI.Start(ctx, s.id)
	})
	if err == nil {
		s.state = running
	}
	return err
}

func (s *subject) log() string {
	return filepath.Join(s.pod.config.GetLogDirectory(), s.config.GetLogPath())
}

// ifRunning lets an error pass if the container has ended by itself.
func (c *torturer) ifRunning(s *subject, err error) error {
	if err == nil {
		return nil
	}
	return c.ask(func(ctx context.Context) error {
		if status.Code(err) == codes.FailedPrecondition { // "has ended" may be said before it is known how
			ctx, cancel := context.WithTimeout(ctx, endedLimit)
			defer cancel()
			if _, e := c.w.CRI.WaitExited(ctx, s.id); ctx.Err() != nil {
				return wrong{fmt.Errorf("%w, but it has not", err)}
			} else {
				return e
			}
		}
		now, e := c.w.CRI.State(ctx, s.id)
		if e == nil && now.GetState() != exited {
			e = wrong{err}
		}
		return e
	})
}

func (c *torturer) exec() error {
	s, code := c.any(running), int32(c.random.IntN(100))
	return c.ifRunning(s, c.ask(func(ctx context.Context) error {
		r, err := c.w.CRI.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: s.id, Cmd: []string{"sh", "-c", fmt.Sprintf("echo out; echo err >&2; exit %d", code)}, Timeout: 30})
		if err == nil && (r.GetExitCode() != code || string(r.GetStdout()) != "out\n" || string(r.GetStderr()) != "err\n") {
			err = fmt.Errorf("a command that exits with %d: code %d, %q, %q", code, r.GetExitCode(), r.GetStdout(), r.GetStderr())
		}
		return err
	}))
}

// wait waits for a container that ends by itself.
func (c *torturer) wait() error { return c.finish(c.any(running)) }

func (c *torturer) finish(s *subject) error {
	return c.ask(func(ctx context.Context) error {
		now, err := c.w.CRI.WaitExited(ctx, s.id)
		if err != nil {
			return err
		}
		return c.ended(s, now)
	})
}

// ended looks whether an exit is the right one.
func (c *torturer) ended(s *subject, now *runtimeapi.ContainerStatus) error {
	reason := "Error"
	if now.GetState() != exited || now.GetExitCode() != s.code || now.GetReason() != reason || now.GetFinishedAt() < now.GetStartedAt() {
		return wrong{fmt.Errorf("%s is %v: code %d, %s: %s; it exits with %d", s.id, now.GetState(), now.GetExitCode(), now.GetReason(), now.GetMessage(), s.code)}
	}
	s.state = exited
	c.tally.exits.Add(1)
	return nil
}

// stop stops a container that is known to have got so far that it heeds the signal.
func (c *torturer) stop() error {
	s := c.any(running)
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if i, err := os.Stat(s.log()); err == nil && i.Size() > 0 || len(s.files) > 0 {
			break
		}
		if time.Since(began) > hang {
			return fmt.Errorf("%s: nothing is logged", s.log())
		}
	}
	err := c.ask(func(ctx context.Context) error {
		_, err := c.w.CRI.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: s.id, Timeout: 30})
		return err
	})
	if err != nil {
		return err
	}
	return c.finish(s)
}

// reopen rotates a log as the kubelet does.
func (c *torturer) reopen() error {
	s := c.any(running)
	moved := fmt.Sprintf("%s.%d", s.log(), len(s.files))
	if err := os.Rename(s.log(), moved); err != nil { // the container had ended when the last rotation asked for a new file
		return c.ifRunning(s, err)
	}
	s.files = append(s.files, moved)
	return c.ifRunning(s, c.ask(func(ctx context.Context) error {
		_, err := c.w.CRI.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: s.id})
		return err
	}))
}

// logs reads a log while it is written: what is there already is right, but for a line that is on its way.
func (c *torturer) logs() error {
	s := c.any(running)
	_, err := readNumbered(append(s.files, s.log())...)
	if err != nil && (strings.Contains(err.Error(), "is torn") || errors.Is(err, fs.ErrNotExist)) {
		return nil
	}
	return err
}

// attach reads a little of what a container writes meanwhile: it is whole, in order and without a gap, from the first whole line on, unless the keeper is killed
// meanwhile: an attached client is no log.
func (c *torturer) attach() error {
	s := c.any(running)
	return c.ifRunning(s, c.ask(func(ctx context.Context) error {
		ctx, leave := context.WithCancel(ctx)
		defer leave()
		stream, err := c.client.Attach(ctx, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		start := &fermatav1.AttachStart{ContainerId: s.id}
		if err := stream.Send(&fermatav1.AttachRequest{Message: &fermatav1.AttachRequest_Start{Start: start}}); err != nil && err != io.EOF {
			return err
		}
		var got []byte
		for len(got) < 8<<10 {
			r, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			got = append(got, r.GetStdout()...)
		}
		return inOrder(got)
	}))
}

// inOrder checks a piece of what a writer wrote.
func inOrder(b []byte) error {
	_, b, _ = bytes.Cut(b, []byte("\n"))
	for next := -1; ; {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if !whole || bytes.HasPrefix(line, []byte("end ")) {
			return nil
		}
		digits, _, _ := bytes.Cut(line, []byte(" "))
		n, err := strconv.Atoi(string(digits))
		if want := lines.Append(nil, n); err != nil || next >= 0 && n != next || !bytes.Equal(line, want[:len(want)-1]) {
			return fmt.Errorf("%.80q is where line %d was to come", line, next)
		}
		next, b = n+1, rest
	}
}

func (c *torturer) stats() error {
	s := c.any(running)
	return c.ifRunning(s, c.ask(func(ctx context.Context) error {
		r, err := c.w.CRI.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: s.id})
		if err == nil && r.GetStats().GetAttributes().GetId() != s.id {
			err = fmt.Errorf("figures of %q", r.GetStats().GetAttributes().GetId())
		}
		return err
	}))
}

// list asks for the containers of a pod, and wants to see those that it made and no others.
func (c *torturer) list() error {
	p := c.pods[c.random.IntN(len(c.pods))]
	return c.ask(func(ctx context.Context) error {
		r, err := c.w.CRI.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
		if err != nil {
			return err
		}
		if len(r.GetContainers()) != len(p.containers) {
			return fmt.Errorf("pod %s has %d containers, is said to have %v", p.id, len(p.containers), r.GetContainers())
		}
		for _, s := range p.containers {
			at := slices.IndexFunc(r.GetContainers(), func(l *runtimeapi.Container) bool { return l.GetId() == s.id })
			if at < 0 {
				return fmt.Errorf("container %s of pod %s is not listed", s.id, p.id)
			}
			if got := r.GetContainers()[at].GetState(); got != s.state && !(s.state == running && got == exited) {
				return fmt.Errorf("container %s is %v, was %v", s.id, got, s.state)
			}
		}
		return nil
	})
}

func (c *torturer) status() error {
	p := c.pods[c.random.IntN(len(c.pods))]
	return c.ask(func(ctx context.Context) error {
		r, err := c.w.CRI.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		if s := r.GetStatus(); err == nil && (s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() != p.ip) {
			err = fmt.Errorf("pod %s is %v at %s, was at %s", p.id, s.GetState(), s.GetNetwork().GetIp(), p.ip)
		}
		return err
	})
}

// checkLog reads all that a container has logged, and takes it away. With the container's exit by itself there must be its last line, unless the log says why not.
func (c *torturer) checkLog(s *subject) error {
	files := s.files
	if _, err := os.Stat(s.log()); err == nil {
		files = append(files, s.log())
	}
	n, err := readNumbered(files...)
	if err != nil {
		return err
	}
	marked := slices.ContainsFunc(n.marks, func(m string) bool { return strings.Contains(m, "ended while neither keeper nor daemon ran") })
	switch {
	case marked && n.whole():
		c.tally.alarms.Add(1)
	case marked:
		c.tally.marked.Add(1)
	case len(n.marks) > 0:
		return fmt.Errorf("%s: fermata says %q", s.log(), n.marks)
	case !n.whole() && !s.killed:
		return fmt.Errorf("%s: ends after %v lines of %v", s.log(), n.count, n.said)
	}
	c.tally.lines.Add(int64(n.count[0] + n.count[1]))
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

func (c *torturer) remove() error { return c.removeContainer(c.any(exited)) }

func (c *torturer) removeContainer(s *subject) error {
	err := c.ask(func(ctx context.Context) error {
		_, err := c.w.CRI.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: s.id})
		return err
	})
	if err != nil {
		return err
	}
	at := slices.Index(s.pod.containers, s)
	s.pod.containers = slices.Delete(s.pod.containers, at, at+1)
	if s.state == created {
		return nil
	}
	return c.checkLog(s)
}

// force removes a container that runs.
func (c *torturer) force() error {
	s := c.any(running)
	s.killed = true
	c.tally.silenced.Add(1)
	return c.removeContainer(s)
}

func (c *torturer) removePod() error { return c.removeThis(c.pods[c.random.IntN(len(c.pods))]) }

// removeThis stops and removes a pod, with what runs in it, which is killed.
func (c *torturer) removeThis(p *victim) error {
	err := c.ask(func(ctx context.Context) error {
		_, err := c.w.CRI.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range slices.Clone(p.containers) {
		if s.state == running {
			if err := c.killedOrEnded(s); err != nil {
				return err
			}
		}
		if s.state == created {
			continue
		}
		if err := c.removeContainer(s); err != nil {
			return err
		}
	}
	err = c.ask(func(ctx context.Context) error {
		_, err := c.w.CRI.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
		return err
	})
	if err != nil {
		return err
	}
	c.pods = slices.DeleteFunc(c.pods, func(q *victim) bool { return q == p })
	return os.RemoveAll(p.config.GetLogDirectory())
}

// killedOrEnded looks how a container ended that ran when its pod was stopped.
func (c *torturer) killedOrEnded(s *subject) error {
	return c.ask(func(ctx context.Context) error {
		now, err := c.w.CRI.State(ctx, s.id)
		if err != nil {
			return err
		}
		if now.GetState() == exited && now.GetExitCode() == 137 {
			s.state, s.killed = exited, true
			c.tally.exits.Add(1)
			c.tally.silenced.Add(1)
			return nil
		}
		return c.ended(s, now)
	})
}
