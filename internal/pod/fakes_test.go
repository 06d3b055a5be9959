package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// node is a node made of fakes, but for cgroups and directories, which are real.
type node struct {
	*Manager
	t       *testing.T
	images  *fakeImages
	network *fakeNetwork
	runtime *fakeRuntime
	records *fakeRecords
	volumes *fakeVolumes
	options Options
}

// newNode makes a node that ends with the test.
func newNode(t *testing.T) *node {
	t.Helper()
	tree, err := cgroup.Open()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		t: t, images: &fakeImages{held: map[string]string{}}, network: &fakeNetwork{leases: map[string]netip.Addr{}, entered: make(chan struct{}, 1)},
	}
	n.runtime = &fakeRuntime{processes: map[string]*fakeProcess{}}
	parent := fmt.Sprintf("/fermata-pod-test-%d", os.Getpid())
	root := t.TempDir()
	n.records = &fakeRecords{root: filepath.Join(root, "pods")}
	n.volumes = &fakeVolumes{t.TempDir()}
	n.options = Options{
		Root: root, State: t.TempDir(), CgroupParent: parent, BootID: "boot", Cgroups: tree,
		Images: n.images, Volumes: n.volumes, Network: n.network, Runtime: n.runtime, Supervisor: n.runtime, Records: n.records,
		Facts: spec.Facts{CgroupMode: spec.CgroupV1}, Handlers: []string{""}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	n.Manager = New(n.options)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.runtime.exited = func(e Exit) { n.Manager.Exited(e) }
	t.Cleanup(func() {
		n.runtime.killAll()
		n.Manager.Close()
		if err := tree.Group(parent).Remove(context.Background()); err != nil {
			t.Errorf("remove the test's cgroups: %v", err)
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// restart replaces the manager by one that knows only what is recorded.
func (n *node) restart(ctx context.Context) {
	n.t.Helper()
	n.Manager.Close()
	n.images.forgetHolds()
	n.Manager = New(n.options)
	n.runtime.tellAgain() // as the keeper does on a new connection, before the records are read
	if err := n.Recover(ctx); err != nil {
		n.t.Fatal(err)
	}
}

type fakeImages struct {
	mu     sync.Mutex
	held   map[string]string // image by user
	refuse error             // of Release
	// volumes are the image's.
	volumes []string
}

func (f *fakeImages) Resolve(ref string) (*Image, error) {
	if ref != "busybox" && ref != "sha256:busybox" {
		return nil, errs.New(errs.NotFound, "find image %q: no such image", ref)
	}
	return &Image{ID: "sha256:busybox", Name: "busybox", Ref: "sha256:busybox", Lowers: []string{"/"}, Config: spec.Image{Cmd: []string{"sh"}, Volumes: f.volumes}}, nil
}

func (f *fakeImages) Hold(imageID, user string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[user] = imageID
	return nil
}

func (f *fakeImages) Release(user string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	delete(f.held, user)
	return nil
}

func (f *fakeImages) forgetHolds() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.held)
}

type fakeNetwork struct {
	mu     sync.Mutex
	leases map[string]netip.Addr
	// gate holds an Attach up, if set, which says in entered that it is there.
	gate, entered chan struct{}
	fail          error
	refuse        error // of Detach
}

func (f *fakeNetwork) Attach(_ context.Context, id string, _ *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	if f.gate != nil {
		f.entered <- struct{}{}
		<-f.gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	f.leases[id] = netip.AddrFrom4([4]byte{10, 0, 0, byte(len(f.leases) + 2)})
	return []netip.Addr{f.leases[id]}, nil
}

func (f *fakeNetwork) Detach(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	delete(f.leases, id)
	return nil
}

func (f *fakeNetwork) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.leases)
}

// fakeRuntime is engine and keeper: its processes are entries in a map that end when they are told to.
type fakeRuntime struct {
	mu        sync.Mutex
	processes map[string]*fakeProcess
	started   int
	fail      error
	// dieAtOnce lets containers end before their start is answered.
	dieAtOnce bool
	exited    func(Exit)
	// deaf processes ignore every signal but SIGKILL.
	deaf    bool
	signals []string
	volumes []string // paths of image volumes given to containers
	// mute: ends are told to nobody, as by a keeper that was killed. untold holds them up. refused counts Forgets of what was not told yet.
	mute    bool
	untold  chan struct{}
	refused int
	// launch, if set, makes an exec's process.
	launch func(e *ExecStart) (*Process, error)
	// stale makes the list of processes one of before they were launched.
	stale bool
}

type fakeProcess struct {
	pid  int
	exit *Exit
	told bool
	// over is closed with its end.
	over chan struct{}
}

func (f *fakeRuntime) start(id string) (*Process, error) {
	f.mu.Lock()
	if f.fail != nil {
		defer f.mu.Unlock()
		return nil, f.fail
	}
	f.started++
	p := &fakeProcess{pid: 1000 + f.started, over: make(chan struct{})}
	f.processes[id] = p
	f.mu.Unlock()
	fd, err := linux.OpenPidfd(os.Getpid())
	if err != nil {
		return nil, err
	}
	return &Process{PID: p.pid, Started: time.Now(), Pidfd: fd}, nil
}

func (f *fakeRuntime) StartSandbox(_ context.Context, s *SandboxStart) (*Process, error) {
	if s.Again { // namespaces are held of a pause that has ended and was not forgotten
		f.mu.Lock()
		p := f.processes[s.ID]
		f.mu.Unlock()
		if p == nil || p.exit == nil {
			return nil, errs.New(errs.NotFound, "launch %s again: no namespaces are held", s.ID)
		}
	}
	return f.start(s.ID)
}

func (f *fakeRuntime) StartContainer(_ context.Context, c *ContainerStart) (*Process, error) {
	for at := range c.Volumes {
		f.volumes = append(f.volumes, at)
	}
	p, err := f.start(c.ID)
	if err == nil && f.dieAtOnce {
		f.end(Exit{ID: c.ID, Code: 3, Finished: time.Now()})
	}
	return p, err
}

// Exec asks launch; without one it knows two commands: "echo", and "hang", which hangs before it begins; everything else runs until it is killed.
func (f *fakeRuntime) Exec(ctx context.Context, e *ExecStart) (*Process, error) {
	p, err := f.start(e.ID)
	if err == nil && f.launch != nil {
		p.Pidfd.Close()
		return f.launch(e)
	}
	if err == nil && e.Process.Args[0] == "hang" {
		f.mu.Lock()
		over := f.processes[e.ID].over
		f.mu.Unlock()
		select {
		case <-ctx.Done(): // who asked gave up; the launch goes on
			p.Pidfd.Close()
			return nil, ctx.Err()
		case <-over:
		}
		p.Pidfd.Close()
		p.Pidfd, err = endedPidfd()
	}
	if err == nil && e.Process.Args[0] == "echo" {
		fmt.Fprintln(e.Stdout, e.Process.Args[1])
		f.end(Exit{ID: e.ID})
	}
	return p, err
}

// endedPidfd is the handle of a process that is gone: others here are of the test itself, which would be killed by it.
func endedPidfd() (*linux.FD, error) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	fd, err := linux.OpenPidfd(cmd.Process.Pid)
	return fd, errors.Join(err, cmd.Wait())
}

func (f *fakeRuntime) UserFiles(context.Context, *Image) (passwd, group []byte, err error) {
	return nil, nil, nil
}

func (f *fakeRuntime) Devices(string) ([]specs.LinuxDevice, error) { return nil, nil }

// end makes a process end and tells the manager.
func (f *fakeRuntime) end(e Exit) {
	f.mu.Lock()
	p, ok := f.processes[e.ID]
	if !ok || p.exit != nil {
		f.mu.Unlock()
		return
	}
	p.exit = &e
	close(p.over)
	untold, mute := f.untold, f.mute
	f.mu.Unlock()
	if untold != nil {
		<-untold
	}
	f.mu.Lock()
	p.told = true
	f.mu.Unlock()
	if f.exited != nil && !mute {
		f.exited(e)
	}
}

// tellAgain reports every exit that has not been forgotten.
func (f *fakeRuntime) tellAgain() {
	f.mu.Lock()
	var told []Exit
	for _, p := range f.processes {
		if p.exit != nil {
			told = append(told, *p.exit)
		}
	}
	f.mu.Unlock()
	for _, e := range told {
		f.exited(e)
	}
}

func (f *fakeRuntime) killAll() {
	f.mu.Lock()
	var ids []string
	for id := range f.processes {
		ids = append(ids, id)
	}
	f.mu.Unlock()
	for _, id := range ids {
		f.end(Exit{ID: id, Code: 137, Signal: syscall.SIGKILL, Finished: time.Now()})
	}
}

func (f *fakeRuntime) Signal(_ context.Context, id string, sig syscall.Signal) error {
	f.mu.Lock()
	p, ok := f.processes[id]
	if !ok || p.exit != nil {
		f.mu.Unlock()
		return errs.New(errs.NotFound, "signal %s: no such process", id)
	}
	f.signals = append(f.signals, fmt.Sprintf("%s %d", id, sig))
	deaf := f.deaf
	f.mu.Unlock()
	if sig == syscall.SIGKILL || !deaf {
		f.end(Exit{ID: id, Code: 128 + int(sig), Signal: sig, Finished: time.Now()})
	}
	return nil
}

func (f *fakeRuntime) ReopenLog(context.Context, string, *linux.FD, string) error { return nil }

func (f *fakeRuntime) Processes(context.Context) ([]Running, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Running
	if f.stale {
		return nil, nil
	}
	for id, p := range f.processes {
		all = append(all, Running{ID: id, PID: p.pid, Exit: p.exit})
	}
	return all, nil
}

func (f *fakeRuntime) Pidfd(_ context.Context, id string) (*linux.FD, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.processes[id]; !ok {
		return nil, errs.New(errs.NotFound, "pidfd of %s: no such process", id)
	}
	return linux.OpenPidfd(os.Getpid())
}

func (f *fakeRuntime) Forget(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, ok := f.processes[id]; ok && !p.told {
		f.refused++
		return errs.New(errs.FailedPrecondition, "forget %s: it runs", id)
	}
	delete(f.processes, id)
	return nil
}

func (f *fakeRuntime) live() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, p := range f.processes {
		if p.exit == nil {
			n++
		}
	}
	return n
}

// fakeRecords keeps JSON where the real records lie, so that removing a pod's directory removes its records.
type fakeRecords struct {
	root string
	mu   sync.Mutex
	full error // every write fails so
}

func (f *fakeRecords) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = err
}

func (f *fakeRecords) put(v any, path ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full != nil {
		return f.full
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	file := filepath.Join(append([]string{f.root}, path...)...)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

func (f *fakeRecords) WritePod(r *PodRecord) error { return f.put(r, r.ID, "pod.json") }

func (f *fakeRecords) WriteContainer(r *ContainerRecord, s *specs.Spec) error {
	if s != nil {
		if err := f.put(s, r.PodID, "containers", r.ID, "spec.json"); err != nil {
			return err
		}
	}
	return f.put(r, r.PodID, "containers", r.ID, "container.json")
}

func (f *fakeRecords) Load() (pods []StoredPod, broken []error, err error) {
	files, err := filepath.Glob(filepath.Join(f.root, "*", "pod.json"))
	if err != nil {
		return nil, nil, err
	}
	for _, file := range files {
		s := StoredPod{Pod: &PodRecord{}}
		if err := readJSON(file, s.Pod); err != nil {
			return nil, nil, err
		}
		containers, err := filepath.Glob(filepath.Join(filepath.Dir(file), "containers", "*", "container.json"))
		if err != nil {
			return nil, nil, err
		}
		for _, file := range containers {
			var c ContainerRecord
			if err := readJSON(file, &c); err != nil {
				return nil, nil, err
			}
			s.Containers = append(s.Containers, &c)
		}
		pods = append(pods, s)
	}
	return pods, nil, nil
}

func (f *fakeRecords) ReadSpec(podID, id string) (*specs.Spec, error) {
	var s specs.Spec
	return &s, readJSON(filepath.Join(f.root, podID, "containers", id, "spec.json"), &s)
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
