package native_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/engine"
	"fermata/internal/engine/native"
	"fermata/internal/launch/report"
	"fermata/internal/linux"
	"fermata/internal/spec"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "app" {
		os.Exit(app(os.Args[1:]))
	}
	leak.Main(m)
}

// app is what runs inside the containers of these tests: this very binary, static, each argument one thing to do and to print.
func app(args []string) int {
	for _, a := range args {
		verb, object, _ := strings.Cut(a, "=")
		if err := appDo(verb, object); err != nil {
			fmt.Println(verb, object, "error:", err)
		}
	}
	return 0
}

func appDo(verb, object string) error {
	switch verb {
	case "cat":
		b, err := os.ReadFile(object)
		os.Stdout.Write(b)
		return err
	case "ls":
		d, err := os.ReadDir(object)
		for _, e := range d {
			fmt.Println(e.Name())
		}
		return err
	case "fds":
		// The directory's own descriptor is closed by the time its entries are looked at.
		d, err := os.ReadDir("/proc/self/fd")
		for _, e := range d {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") {
				fmt.Println("fd", e.Name(), to)
			}
		}
		return err
	case "readlink":
		to, err := os.Readlink(object)
		fmt.Println(object, "->", to)
		return err
	case "stat":
		var st syscall.Stat_t
		err := syscall.Lstat(object, &st)
		fmt.Printf("%s: mode %o dev %d:%d owner %d:%d\n", object, st.Mode, st.Rdev>>8&0xfff, st.Rdev&0xff, st.Uid, st.Gid)
		return err
	case "write":
		path, text, _ := strings.Cut(object, ",")
		return os.WriteFile(path, []byte(text), 0o644)
	case "chown":
		var path string
		var uid, gid int
		if _, err := fmt.Sscan(strings.ReplaceAll(object, ",", " "), &path, &uid, &gid); err != nil {
			return err
		}
		return os.Chown(path, uid, gid)
	case "mknod":
		return syscall.Mknod(object, syscall.S_IFCHR|0o600, 0x103)
	case "mkdir":
		return os.Mkdir(object, 0o777)
	case "mount":
		if err := syscall.Mount("tmpfs", object, "tmpfs", 0, "size=4k"); err != nil {
			return err
		}
		return os.WriteFile(object+"/mark", nil, 0o644)
	case "watch":
		return watch()
	case "cwd":
		d, err := os.Getwd()
		fmt.Println("cwd", d)
		return err
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "hostname":
		h, err := os.Hostname()
		fmt.Println("hostname", h)
		return err
	case "pid":
		fmt.Println("pid", os.Getpid())
	case "ns":
		for _, k := range []string{"net", "ipc", "uts", "mnt", "pid", "cgroup"} {
			to, err := os.Readlink("/proc/self/ns/" + k)
			if err != nil {
				return err
			}
			fmt.Println("ns", to)
		}
	case "tty":
		for i := range 3 {
			to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", i))
			fmt.Println("tty", i, to, err)
		}
		f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	case "umask":
		fmt.Printf("umask %o\n", syscall.Umask(0))
	case "ready":
		fmt.Println("ready")
	case "wait":
		io.Copy(io.Discard, os.Stdin)
	default:
		return errors.New("unknown verb")
	}
	return nil
}

// watch looks at every process it sees until stdin ends, and prints those that have what it has not.
func watch() error {
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	caps, self, seen := status(string(own), "CapPrm"), itoa(os.Getpid()), map[string]bool{}
	for {
		select {
		case <-ended:
			fmt.Println("watched", len(seen), "processes")
			return nil
		default:
		}
		pids, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range pids {
			pid := e.Name()
			if pid == "1" || pid == self || strings.Trim(pid, "0123456789") != "" {
				continue
			}
			seen[pid] = true
			st, _ := os.ReadFile("/proc/" + pid + "/status")
			if c := status(string(st), "CapPrm"); c > caps {
				fmt.Println("bad capabilities", c, status(string(st), "Name"))
			}
			if to, err := os.Readlink("/proc/" + pid + "/fd/4"); err == nil && !strings.HasPrefix(to, "anon_inode:") {
				fmt.Println("bad descriptor", to, status(string(st), "Name"))
			}
		}
	}
}

// node is a machine for tests: a handler and a place for files.
type node struct {
	*native.Handler
	t   testing.TB
	dir string
	// lower is a minimal rootfs: /bin/app and a few directories.
	lower      string
	containers int
}

func newNode(t testing.TB) *node {
	t.Helper()
	h, err := native.New(native.Options{Skeleton: filepath.Join(t.TempDir(), "skeleton")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	n := &node{Handler: h, t: t, dir: t.TempDir()}
	n.lower = filepath.Join(n.dir, "lower")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "data"} {
		if err := os.MkdirAll(filepath.Join(n.lower, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self, filepath.Join(n.lower, "bin/app")); err != nil { // same filesystem or copy
		b, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		n.file(n.lower, "bin/app", string(b))
	}
	if err := os.Chmod(filepath.Join(n.lower, "bin/app"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.file(n.lower, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	return n
}

func (n *node) file(dir, name, contents string) string {
	n.t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(contents), 0o755); err != nil {
		n.t.Fatal(err)
	}
	return p
}

func (n *node) mkdir(name string) string {
	n.t.Helper()
	p := filepath.Join(n.dir, name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return p
}

// process is a launched plan.
type process struct {
	t      testing.TB
	plan   *engine.Plan
	pid    int
	pidfd  *linux.FD
	out    *os.File
	in     *os.File
	report report.Report
	reaped bool
	seen   string // what await has read
}

// launchPlan does the keeper's part. The process is killed and reaped when the test ends.
func (n *node) launchPlan(plan *engine.Plan) *process {
	t := n.t
	t.Helper()
	memory, err := plan.Program.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	rd, wr := pipe(t)
	defer rd.Close()
	p := &process{t: t, plan: plan}
	var outw, inr *linux.FD
	p.out, outw = pipe(t)
	inr2, in := pipe(t)
	p.in = in.File()
	if inr, err = linux.Open(fmt.Sprintf("/proc/self/fd/%d", inr2.Fd()), syscall.O_RDONLY, 0); err != nil {
		t.Fatal(err)
	}
	inr2.Close()
	files := []*linux.FD{inr, outw, outw, wr, memory}
	if plan.Stdin != nil {
		files[0], files[1], files[2] = plan.Stdin, plan.Stdout, plan.Stderr
	}
	spawn := linux.Spawn{Executable: n.Stage().Stage, Args: []string{"fermata-stage"}, Files: append(files, plan.Files...),
		CloneFlags: plan.CloneFlags, Cgroup: plan.Cgroup}
	pid, pidfd, err := spawn.Start()
	linux.CloseAll(wr, outw, inr)
	if err != nil {
		t.Fatalf("spawn: %v", err)
	}
	pidfd.Close()
	p.pid = pid
	if p.report, err = report.Read(rd); err != nil {
		t.Fatal(err)
	}
	if p.report.PID != 0 {
		linux.WaitPID(pid)
		p.pid = p.report.PID
	}
	if p.pidfd, err = linux.OpenPidfd(p.pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

func pipe(t testing.TB) (*os.File, *linux.FD) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d, err := linux.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), syscall.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return r, d
}

// end kills and reaps the process and closes what is left of it.
func (p *process) end() {
	if !p.reaped {
		p.reaped = true
		p.pidfd.Signal(syscall.SIGKILL)
		linux.WaitPID(p.pid)
	}
	p.pidfd.Close()
	p.plan.Close()
	p.in.Close()
	p.out.Close()
}

// failure is why the launch failed, nil if it did not.
func (p *process) failure() error {
	if !p.report.Failed {
		return nil
	}
	return p.plan.Failure(p.report.Op, p.report.Errno)
}

// output waits for the end of the process and returns what it wrote.
func (p *process) output() string {
	p.t.Helper()
	if err := p.failure(); err != nil {
		p.t.Fatalf("launch: %v", err)
	}
	p.in.Close()
	var src io.Reader = p.out
	if p.plan.Console != nil {
		linux.CloseAll(p.plan.Stdin, p.plan.Stdout, p.plan.Stderr)
		src = p.plan.Console
	}
	var b bytes.Buffer
	for range 2 { // a terminal's end (EIO) is believed the second time, see linux.FD.ReadNow
		if _, err := io.Copy(&b, src); err != nil && !errors.Is(err, syscall.EIO) {
			p.t.Fatal(err)
		}
	}
	if !p.reaped {
		p.reaped = true
		linux.WaitPID(p.pid)
	}
	return b.String()
}

// await reads until the process has written a line "ready".
func (p *process) await() *process {
	p.t.Helper()
	if err := p.failure(); err != nil {
		p.t.Fatalf("launch: %v", err)
	}
	var b []byte
	for !bytes.Contains(b, []byte("ready\n")) {
		buf := make([]byte, 512)
		n, err := p.out.Read(buf)
		if b = append(b, buf[:n]...); err != nil {
			p.t.Fatalf("wait for ready: %v, got %q", err, b)
		}
	}
	p.seen = string(b)
	return p
}

// pod is a sandbox of a test.
type pod struct {
	*node
	pause      *process
	namespaces engine.Namespaces
	config     *runtimeapi.PodSandboxConfig
}

func (n *node) pod(edit func(*engine.Sandbox)) *pod {
	n.t.Helper()
	s := &engine.Sandbox{ID: "pod", Hostname: "pod-host", UID: 65535, GID: 65535, OOMScoreAdj: 0}
	if edit != nil {
		edit(s)
	}
	plan, err := n.Sandbox(context.Background(), s)
	if err != nil {
		n.t.Fatal(err)
	}
	p := &pod{node: n, pause: n.launchPlan(plan), config: &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Privileged: true, NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
	}}}
	if err := p.pause.failure(); err != nil {
		n.t.Fatalf("launch pause: %v", err)
	}
	options := p.config.Linux.SecurityContext.NamespaceOptions
	for _, ns := range []struct {
		kind string
		to   **linux.FD
		host bool
		mode *runtimeapi.NamespaceMode
	}{
		{"net", &p.namespaces.Net, s.HostNetwork, &options.Network}, {"uts", &p.namespaces.UTS, s.HostNetwork, nil},
		{"ipc", &p.namespaces.IPC, s.HostIPC, &options.Ipc}, {"pid", &p.namespaces.PID, s.HostPID, &options.Pid}, {"mnt", &p.namespaces.Mount, false, nil},
	} {
		if ns.host {
			if ns.mode != nil {
				*ns.mode = runtimeapi.NamespaceMode_NODE
			}
			continue
		}
		if *ns.to, err = linux.NamespaceOf(p.pause.pid, ns.kind); err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { (*ns.to).Close() })
	}
	if s.SharedPID {
		options.Pid = runtimeapi.NamespaceMode_POD
	}
	if s.Users != nil {
		p.users(s.Users)
	}
	return p
}

// users makes containers of the pod join its user namespace.
func (p *pod) users(u *spec.Users) {
	p.t.Helper()
	ns, err := p.namespaces.Mount.UserNamespaceOf()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ns.Close() })
	p.namespaces.User = ns
	sc := p.config.Linux.SecurityContext
	sc.Privileged = false
	ids := func(m specs.LinuxIDMapping) []*runtimeapi.IDMapping {
		return []*runtimeapi.IDMapping{{HostId: m.HostID, ContainerId: m.ContainerID, Length: m.Size}}
	}
	sc.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids(u.UIDs), Gids: ids(u.GIDs)}
}

// request is a container of a test, to be changed before it is started.
type request struct {
	input  spec.Input
	rootfs engine.Rootfs
	spec   func(*specs.Spec)
	plan   func(*engine.Container)
}

func facts() spec.Facts {
	// What the tests' own process can give.
	status, _ := os.ReadFile("/proc/self/status")
	var bounding uint64
	for _, l := range strings.Split(string(status), "\n") {
		if v, ok := strings.CutPrefix(l, "CapBnd:"); ok {
			fmt.Sscanf(strings.TrimSpace(v), "%x", &bounding)
		}
	}
	var f spec.Facts
	for i, c := range spec.CapabilityNames {
		if bounding&(1<<i) != 0 {
			f.Capabilities = append(f.Capabilities, c)
		}
	}
	return f
}

func (p *pod) request(args ...string) *request {
	p.containers++
	id := fmt.Sprintf("c%d", p.containers)
	r := &request{rootfs: engine.Rootfs{Lower: []string{p.lower}, Upper: p.mkdir(id + "/upper"), Work: p.mkdir(id + "/work"), Volatile: true}}
	r.input = spec.Input{
		ID: id, SandboxID: "pod", Sandbox: p.config, Facts: facts(), Hostname: "pod-host", Identity: spec.Identity{Home: "/"},
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: id}, Command: append([]string{"/bin/app"}, args...),
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: p.config.Linux.SecurityContext.NamespaceOptions.Pid}}},
		},
		Files: spec.PodFiles{
			Hostname: p.file(p.dir, "pod/hostname", "pod-host\n"), Hosts: p.file(p.dir, "pod/hosts", "127.0.0.1 localhost\n"),
			ResolvConf: p.file(p.dir, "pod/resolv.conf", "nameserver 192.0.2.1\n"),
		},
	}
	return r
}

func (r *request) security() *runtimeapi.LinuxContainerSecurityContext {
	return r.input.Config.Linux.SecurityContext
}

// container plans and specifies.
func (p *pod) container(r *request) (*engine.Plan, *specs.Spec, error) {
	p.t.Helper()
	s, err := spec.Container(r.input)
	if err != nil {
		return nil, nil, err
	}
	if r.spec != nil {
		r.spec(s)
	}
	c := &engine.Container{ID: r.input.ID, Spec: s, Rootfs: r.rootfs, Namespaces: p.namespaces}
	if r.plan != nil {
		r.plan(c)
	}
	plan, err := p.Container(context.Background(), c)
	return plan, s, err
}

// start launches a container; its failure is the process's.
func (p *pod) start(r *request) (*process, *specs.Spec) {
	p.t.Helper()
	plan, s, err := p.container(r)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.launchPlan(plan), s
}

// run launches a container that does things and returns what it printed.
func (p *pod) run(args ...string) string {
	p.t.Helper()
	proc, _ := p.start(p.request(args...))
	return proc.output()
}

// status reads a field of /proc/self/status as a container printed it.
func status(out, field string) string {
	for _, l := range strings.Split(out, "\n") {
		if v, ok := strings.CutPrefix(l, field+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return ""
}

func itoa(n int) string { return fmt.Sprint(n) }

func isErrno(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }

// bits writes a hexadecimal number in binary.
func bits(hex string) string {
	var n uint64
	fmt.Sscanf(hex, "%x", &n)
	return fmt.Sprintf("%b", n)
}
