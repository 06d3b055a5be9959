package pod

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/spec"
)

// Unclaimed is how long a sandbox or container lives whose caller gave up before it was ready. An equal request within that time claims it.
const Unclaimed = 2 * time.Minute

// Options is what a Manager is made of. All members are needed.
type Options struct {
	// Root holds pods' records and writable layers, State their files in memory (hosts, resolv.conf).
	Root, State string
	// CgroupParent is where pods go whose request names no parent.
	CgroupParent string
	// SandboxImage is the name of the image that stands for pause, in metrics.
	SandboxImage string
	// BootID tells this boot of the machine from another.
	BootID string

	Cgroups    *cgroup.Tree
	Images     Images
	Volumes    Volumes
	Network    Network
	Runtime    Runtime
	Supervisor Supervisor
	Stdio      Stdio
	Dial       Dial
	Records    Records
	AppArmor   AppArmor // this and SELinux are asked only where Facts say that they are on
	SELinux    SELinux
	Facts      spec.Facts
	Handlers   []string
	Log        *slog.Logger
}

// Manager knows the node's pods and moves them. Its methods are safe for concurrent use.
type Manager struct {
	Options

	mu         sync.RWMutex // guards all up to flights; of the maps not what they point to
	pods       map[string]*Pod
	containers map[string]*Container
	execs      map[string]*execution
	// recovered says that Recover is through; unplaced are the exits that came before.
	recovered bool
	unplaced  []Exit

	// levels is held while a pod takes an SELinux level that no other has.
	levels sync.Mutex

	flights   flights
	history   history
	execSpecs execSpecs
	events    events

	closing sync.RWMutex // guards closed; held shared while an exit is taken in
	closed  bool

	// figures is what stats are read with.
	figures figures

	// background counts reaping and other work that outlives a call.
	background sync.WaitGroup
	ctx        context.Context // ends with Close; background work's
	cancel     context.CancelFunc
}

// New makes a Manager that knows no pods yet; call [Manager.Recover] before serving.
func New(o Options) *Manager {
	ctx, cancel := context.WithCancel(context.Background())
	return &Manager{
		Options: o, ctx: ctx, cancel: cancel,
		pods: map[string]*Pod{}, containers: map[string]*Container{}, execs: map[string]*execution{},
	}
}

// Close waits for the work in the background. Pods stay as they are: a daemon's end is none of theirs.
func (m *Manager) Close() {
	m.flights.wait()
	m.cancel()
	m.closing.Lock()
	m.closed = true // from here on no exit starts work that nobody waits for
	m.closing.Unlock()
	m.background.Wait()
	m.figures.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.containers {
		c.closeInit()
	}
}

// Pod is one sandbox and its containers.
type Pod struct {
	id string
	// op serialises what changes the sandbox as a whole; waiting for it ends with the waiter's context.
	op      lock
	journal journal

	mu         sync.Mutex // guards all below, here and in every container of the pod; never held while waiting
	record     PodRecord
	containers map[string]*Container
	// past are the last of its containers that are gone, for its story.
	past []ContainerRecord
	// pauseGone is closed when the pause process has ended and been folded in; nil when none runs.
	pauseGone chan struct{}
	// pauseEnded is the PID of the last one of which the end was told; renewing counts those whose place another is to take.
	pauseEnded, renewing int
	visible              bool
	abandoned            bool // nobody claimed it in time: it is being removed
	stopped              bool // nothing of it is left but its records
	stopTold             bool // readers of events know that it ended
}

// Container is one container of a pod. Its pod's mutex guards its members.
type Container struct {
	id      string
	pod     *Pod
	op      lock
	journal journal

	record ContainerRecord
	// gone is closed when the process has ended, its exit is recorded and its cgroup is empty; made at start.
	gone chan struct{}
	// early is an exit that arrived before the start's own answer.
	early   *Exit
	visible bool
	// abandoned says that nobody claimed it in time and that it is being removed.
	abandoned bool
	// unwritten says that the disk does not know what the record says; unclean that its end was not cleaned up after.
	unwritten, unclean bool
	init               initHandle
	execs              int // running
	// execGate is held while an exec is counted, and while the group of all is killed for the only one.
	execGate lock
	layer    layerUsage
}

// lock is a mutex whose waiters can give up.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l lock) release() { <-l }

// newID makes a 64-digit hexadecimal ID that no name can be guessed from.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand since Go 1.24
	return hex.EncodeToString(b[:])
}

// digest identifies a request byte for byte.
func digest(parts ...proto.Message) string {
	h := sha256.New()
	for _, p := range parts {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
		if err != nil {
			b = []byte(err.Error()) // invalid UTF-8 in a string: such requests equal nothing but themselves
		}
		fmt.Fprintf(h, "%d:", len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// podKey is a sandbox's identity: who asks for it again means the same one. Quoted, so that no other name reads the same.
func podKey(md *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%q of namespace %q, uid %q, attempt %d", md.GetName(), md.GetNamespace(), md.GetUid(), md.GetAttempt())
}

// podName is how messages call a sandbox.
func podName(md *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%d", md.GetName(), md.GetNamespace(), md.GetUid(), md.GetAttempt())
}

// findPod finds a visible pod by its ID or a prefix that only one has.
func (m *Manager) findPod(id string) (*Pod, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return find(m.pods, "pod sandbox", id, func(p *Pod) bool { return p.isVisible() })
}

// findContainer finds a visible container by its ID or a prefix that only one has.
func (m *Manager) findContainer(id string) (*Container, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return find(m.containers, "container", id, func(c *Container) bool { return c.isVisible() })
}

func find[T any](all map[string]T, kind, id string, visible func(T) bool) (found T, err error) {
	if id == "" {
		return found, errs.New(errs.InvalidArgument, "find %s: %s: missing", kind, idField(kind))
	}
	if x, ok := all[id]; ok && visible(x) {
		return x, nil
	}
	matches := 0
	for full, x := range all {
		if strings.HasPrefix(full, id) && visible(x) {
			found, matches = x, matches+1
		}
	}
	switch matches {
	case 1:
		return found, nil
	case 0:
		return found, errs.New(errs.NotFound, "find %s %q: no such %s", kind, id, kind)
	}
	return found, errs.New(errs.InvalidArgument, "find %s: %s: %d begin with %q, give more digits", kind, idField(kind), matches, id)
}

// idField is the request's member that says which one of a kind is meant.
func idField(kind string) string { return strings.ReplaceAll(kind, " ", "_") + "_id" }

func (p *Pod) isVisible() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.visible
}

func (p *Pod) isAbandoned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.abandoned
}

func (c *Container) isAbandoned() bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.abandoned
}

func (c *Container) isVisible() bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.visible
}

// updatePod changes a pod's record: the change is on disk before anyone sees it, and undone where it cannot be written.
func (m *Manager) updatePod(p *Pod, change func(*PodRecord) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.record
	if next.State == Removing { // writing would bring its directory back
		return errs.New(errs.FailedPrecondition, "change pod sandbox %s: it is being removed", p.id)
	}
	if err := change(&next); err != nil {
		return err
	}
	if err := m.Records.WritePod(&next); err != nil {
		return err
	}
	p.record = next
	return nil
}

// notePod records a fact: something that has happened, or must (a full disk keeps no pod from stopping), and is so whether it can be written
// or not. change says whether it changed anything; nothing is noted of a pod that is being removed, which would bring its directory back.
func (m *Manager) notePod(p *Pod, change func(*PodRecord) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.record.State == Removing || !change(&p.record) {
		return false
	}
	if err := m.Records.WritePod(&p.record); err != nil {
		m.Log.Error("record what happened to a pod", "pod", p.id, "error", err)
	}
	return true
}

// noteContainer is notePod for a container.
func (m *Manager) noteContainer(c *Container, change func(*ContainerRecord) bool) bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	before := c.record.State
	if before == Removing || !change(&c.record) {
		return false
	}
	err := m.Records.WriteContainer(&c.record, nil)
	if c.unwritten = err != nil; c.unwritten {
		m.Log.Error("record what happened to a container", "container", c.id, "error", err)
	}
	m.tellChange(c, before)
	return true
}

// snapshot returns a copy of the pod's record.
func (p *Pod) snapshot() PodRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record
}

func (c *Container) snapshot() ContainerRecord {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.record
}
