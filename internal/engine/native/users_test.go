package native_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/engine"
	"fermata/internal/engine/native"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// mapped is a numbering whose users and groups cannot be taken for each other.
var mapped = &spec.Users{UIDs: specs.LinuxIDMapping{HostID: 300000, Size: 65536}, GIDs: specs.LinuxIDMapping{HostID: 500000, Size: 65536}}

func withUsers(s *engine.Sandbox) { s.Users = mapped }

// owner is who owns a file on the host.
func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid
}

func ownedBy(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	if u, g := owner(t, path); u != uid || g != gid {
		t.Errorf("%s belongs to %d:%d on the host, want %d:%d", path, u, g, uid, gid)
	}
}

func TestFilesOfAUserNamespaceAreItsUsers(t *testing.T) {
	p := newNode(t).pod(withUsers)
	if err := os.Chown(filepath.Join(p.lower, "tmp"), 7, 8); err != nil {
		t.Fatal(err)
	}
	r := p.request("cat=/proc/self/uid_map", "cat=/proc/self/gid_map", "stat=/", "stat=/bin/app", "stat=/tmp", "write=/new,x", "stat=/new", "chown=/new,1000,2000",
		"stat=/new", "write=/etc/passwd,x", "stat=/etc/passwd", "stat=/dev", "stat=/dev/null", "stat=/dev/fd", "stat=/dev/shm", "stat=/dev/mqueue", "stat=/deep", "stat=/deep/er", "stat=/work",
		"write=/dev/null,x", "write=/dev/shm/x,y", "cat=/etc/hostname", "ls=/sys/class/net")
	r.input.Config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"CHOWN", "DAC_OVERRIDE"}}
	r.input.Config.WorkingDir = "/work"
	r.input.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/deep/er/volume", HostPath: p.mkdir("v")}}
	proc, _ := p.start(r)
	out := proc.output()
	wants(t, out, "         0     300000      65536", "         0     500000      65536",
		"/: mode 40755 dev 0:0 owner 0:0", "/bin/app: mode 100755 dev 0:0 owner 0:0", "/tmp: mode 40755 dev 0:0 owner 7:8",
		"/new: mode 100644 dev 0:0 owner 0:0", "/new: mode 100644 dev 0:0 owner 1000:2000", "/etc/passwd: mode 100755 dev 0:0 owner 0:0",
		"/dev: mode 40755 dev 0:0 owner 0:0", "/dev/null: mode 20666 dev 1:3 owner 0:0", "/dev/fd: mode 120777 dev 0:0 owner 0:0",
		"/dev/shm: mode 41777 dev 0:0 owner 0:0", "/dev/mqueue: mode 41777 dev 0:0 owner 0:0",
		"/deep: mode 40755 dev 0:0 owner 0:0", "/deep/er: mode 40755 dev 0:0 owner 0:0", "/work: mode 40755 dev 0:0 owner 0:0", "pod-host", "lo")
	if strings.Contains(out, "error") {
		t.Errorf("output:\n%s", out)
	}
	upper := r.rootfs.Upper
	ownedBy(t, upper, 300000, 500000)
	ownedBy(t, upper+"/new", 301000, 502000)
	ownedBy(t, upper+"/etc/passwd", 300000, 500000)
	ownedBy(t, upper+"/work", 300000, 500000)
	ownedBy(t, p.lower+"/etc/passwd", 0, 0)
	ownedBy(t, p.lower+"/tmp", 7, 8)
}

func TestNamespacesBelongToThePodsUserNamespace(t *testing.T) {
	p := newNode(t).pod(withUsers)
	first, s := p.start(p.request("ready", "wait"))
	first.await()
	second := p.exec(first, s, false, "ready", "wait")
	second.await()
	host := nsLink(t, os.Getpid(), "user")
	want := nsLink(t, p.pause.pid, "user")
	if want == host {
		t.Fatal("pause is in the host's user namespace")
	}
	inode, err := p.namespaces.User.Inode()
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []struct {
		name  string
		pid   int
		kinds string
	}{{"pause", p.pause.pid, "net ipc uts mnt pid"}, {"container", first.pid, "net ipc uts mnt pid cgroup"}, {"exec", second.pid, "net ipc uts mnt pid cgroup"}} {
		if got := nsLink(t, of.pid, "user"); got != want {
			t.Errorf("%s is in %s, want %s", of.name, got, want)
		}
		for _, kind := range strings.Fields(of.kinds) {
			ns, err := linux.NamespaceOf(of.pid, kind)
			if err != nil {
				t.Fatal(err)
			}
			owns, err := ns.UserNamespaceOf()
			ns.Close()
			if err != nil {
				t.Fatal(err)
			}
			got, err := owns.Inode()
			owns.Close()
			if err != nil || got != inode {
				t.Errorf("the %s namespace of %s belongs to user namespace %d, %v, want %d", kind, of.name, got, err, inode)
			}
		}
	}
}

// What of the host pause needed to begin with it has left behind: nobody of the pod could reach it otherwise, but by pause's /proc/PID/root.
func TestPauseInAUserNamespaceSeesNothingOfTheHost(t *testing.T) {
	p := newNode(t).pod(withUsers)
	b, err := os.ReadFile("/proc/" + itoa(p.pause.pid) + "/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounts := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(mounts) != 4 { // itself, shm, proc, sys
		t.Errorf("its mounts: %q", mounts)
	}
	root := "/proc/" + itoa(p.pause.pid) + "/root"
	if pids, err := os.ReadDir(root + "/proc"); err != nil || !isDir(root+"/proc/1") || isDir(root+"/proc/"+itoa(os.Getpid())) {
		t.Errorf("its /proc: %d entries, %v", len(pids), err)
	}
	st, err := os.ReadFile("/proc/" + itoa(p.pause.pid) + "/status")
	if err != nil || status(string(st), "Uid") != "365535 365535 365535 365535" || status(string(st), "CapPrm") != "0000000000000000" {
		t.Errorf("its status: %v\n%s", err, st)
	}
	fds, err := os.ReadDir("/proc/" + itoa(p.pause.pid) + "/fd")
	if err != nil || len(fds) != 3 {
		t.Errorf("its descriptors: %v, %v", fds, err)
	}
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// Root of a user namespace rules what belongs to it, and nothing of the host.
func TestRootOfAUserNamespace(t *testing.T) {
	p := newNode(t).pod(withUsers)
	r := p.request("write=/proc/sys/net/ipv4/ip_forward,1", "cat=/proc/sys/net/ipv4/ip_forward", "mount=/tmp", "ls=/tmp", "write=/proc/sys/kernel/core_pattern,x", "write=/proc/cmdline,x",
		"mknod=/device", "write=/sys/kernel/profiling,1", "cat=/proc/self/status")
	r.input.Config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
	proc, _ := p.start(r)
	out := proc.output()
	wants(t, out, "1", "mark", "write /proc/sys/kernel/core_pattern,x error: open /proc/sys/kernel/core_pattern: permission denied",
		"write /proc/cmdline,x error: open /proc/cmdline: permission denied", "mknod /device error: operation not permitted")
	if !strings.Contains(out, "write /sys/kernel/profiling,1 error") {
		t.Errorf("output:\n%s", out)
	}
}

func TestVolumesInAUserNamespace(t *testing.T) {
	p := newNode(t).pod(withUsers)
	mapping := func(host uint32) []*runtimeapi.IDMapping {
		return []*runtimeapi.IDMapping{{HostId: host, Length: 65536}}
	}
	r := p.request("stat=/mapped/file", "write=/mapped/new,x", "stat=/plain/file", "write=/plain/new,x", "stat=/other/file", "write=/read-only/new,x", "mkdir=/mapped/nested", "stat=/mapped/place/in")
	volume := p.mkdir("volume")
	if err := os.Chown(p.file(volume, "file", "x"), 1000, 2000); err != nil {
		t.Fatal(err)
	}
	r.input.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/mapped", HostPath: volume, UidMappings: mapping(300000), GidMappings: mapping(500000)},
		{ContainerPath: "/mapped/place/in", HostPath: p.mkdir("nested"), UidMappings: mapping(300000), GidMappings: mapping(500000)},
		{ContainerPath: "/plain", HostPath: volume},
		{ContainerPath: "/other", HostPath: volume, UidMappings: mapping(299990), GidMappings: mapping(499980)},
		{ContainerPath: "/read-only", HostPath: volume, UidMappings: mapping(300000), GidMappings: mapping(500000), Readonly: true},
	}
	proc, _ := p.start(r)
	wants(t, proc.output(), "/mapped/file: mode 100755 dev 0:0 owner 1000:2000", "/plain/file: mode 100755 dev 0:0 owner 65534:65534",
		"write /plain/new,x error: open /plain/new: permission denied", "/other/file: mode 100755 dev 0:0 owner 990:1980",
		"write /read-only/new,x error: open /read-only/new: read-only file system", "/mapped/place/in: mode 40755 dev 0:0 owner 0:0")
	ownedBy(t, volume+"/new", 0, 0)
	ownedBy(t, volume+"/nested", 0, 0)
	ownedBy(t, volume+"/place", 0, 0)
	ownedBy(t, volume+"/file", 1000, 2000)
}

func TestAVolumeThatCannotBeIdmappedIsRefused(t *testing.T) {
	p := newNode(t).pod(withUsers)
	r := p.request()
	ids := []*runtimeapi.IDMapping{{HostId: 300000, Length: 65536}}
	r.input.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: "/proc/sys", UidMappings: ids, GidMappings: ids}}
	plan, _, err := p.container(r)
	plan.Close()
	if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "mount /v: volume /proc/sys: its filesystem cannot be mounted for a user namespace") {
		t.Errorf("error %v", err)
	}
}

func TestImageVolumesInAUserNamespace(t *testing.T) {
	n := newNode(t)
	p := n.pod(withUsers)
	image := []string{n.mkdir("image/2"), n.mkdir("image/1")}
	for _, f := range []string{n.file(image[1], "sub/file", "of the image"), n.file(image[0], "top", "")} {
		if err := os.Chown(f, 5, 6); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		layers    []string
		sub, file string
	}{{image, "", "top"}, {image, "sub", "file"}, {image[1:], "", "sub/file"}, {image[1:], "sub", "file"}} {
		volume, err := n.ImageVolume(c.layers, c.sub, mapped, "")
		if err != nil {
			t.Fatal(err)
		}
		r := p.request("stat=/volume/"+c.file, "write=/volume/x,y")
		r.input.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: "x"}, Readonly: true}}
		r.plan = func(c *engine.Container) { c.Sources = map[string]*linux.FD{"/volume": volume} }
		proc, _ := p.start(r)
		wants(t, proc.output(), "/volume/"+c.file+": mode 100755 dev 0:0 owner 5:6", "write /volume/x,y error: open /volume/x: read-only file system")
		volume.Close()
	}
}

// Below Linux 6.15 idmapped layers are attached in a copy of the mount namespace.
func TestUserNamespacesOnOlderKernels(t *testing.T) {
	n := newNode(t)
	n.PretendOldOverlay()
	p := n.pod(withUsers)
	top := n.mkdir("layers/top")
	if err := os.Chown(n.file(top, "file", ""), 5, 6); err != nil {
		t.Fatal(err)
	}
	r := p.request("stat=/file", "stat=/bin/app", "write=/new,x")
	r.rootfs.Lower = []string{top, p.lower}
	proc, _ := p.start(r)
	wants(t, proc.output(), "/file: mode 100755 dev 0:0 owner 5:6", "/bin/app: mode 100755 dev 0:0 owner 0:0")
	ownedBy(t, r.rootfs.Upper+"/new", 300000, 500000)
	ownedBy(t, top+"/file", 5, 6)
	volume, err := n.ImageVolume([]string{top, p.lower}, "", mapped, "")
	if err != nil {
		t.Fatal(err)
	}
	defer volume.Close()
	st, err := volume.StatEntry("file")
	if err != nil || st.UID != 300005 || st.GID != 500006 {
		t.Errorf("file of an image volume: %d:%d, %v", st.UID, st.GID, err)
	}
}

func TestTerminalInAUserNamespace(t *testing.T) {
	p := newNode(t).pod(withUsers)
	r := p.request("tty", "stat=/dev/console", "stat=/dev/pts", "stat=/dev/pts/ptmx", "fds", "ready", "wait")
	r.input.Config.Tty = true
	r.input.Identity = spec.Identity{UID: 1000, GID: 1000, Home: "/"}
	first, s := p.start(r)
	if err := first.failure(); err != nil {
		t.Fatal(err)
	}
	second := p.exec(first, s, true, "tty")
	wants(t, strings.ReplaceAll(second.output(), "\r", ""), "tty 0 /dev/pts/1 <nil>", "tty 2 /dev/pts/1 <nil>")
	first.pidfd.Signal(syscall.SIGKILL)
	wants(t, strings.ReplaceAll(first.output(), "\r", ""), "tty 0 /dev/pts/0 <nil>", "/dev/console: mode 20620 dev 136:0 owner 1000:5", "/dev/pts: mode 40755 dev 0:0 owner 0:0",
		"/dev/pts/ptmx: mode 20666 dev 5:2 owner 0:0")
}

func TestPIDNamespacesInAUserNamespace(t *testing.T) {
	n := newNode(t)
	shared := n.pod(func(s *engine.Sandbox) { s.Users, s.SharedPID = mapped, true })
	out := shared.run("pid", "cat=/proc/1/comm")
	if !strings.HasSuffix(out, "fermata-pause\n") || strings.HasPrefix(out, "pid 1\n") {
		t.Errorf("shared with the pod:\n%s", out)
	}
	p := n.pod(withUsers)
	first, _ := p.start(p.request("ready", "wait"))
	first.await()
	target, err := linux.NamespaceOf(first.pid, "pid")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	r := p.request("cat=/proc/1/comm", "readlink=/proc/1/exe")
	r.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "c1"}
	r.plan = func(c *engine.Container) { c.TargetPID = target }
	debug, _ := p.start(r)
	wants(t, debug.output(), "app", "/proc/1/exe -> /bin/app")
}

func TestIdentityInAUserNamespace(t *testing.T) {
	p := newNode(t).pod(withUsers)
	r := p.request("cat=/proc/self/status", "ready", "wait")
	r.input.Identity = spec.Identity{UID: 1000, GID: 2000, Groups: []uint32{2000, 44}, Home: "/"}
	r.security().NoNewPrivs, r.input.Seccomp = true, defaultProfile(t)
	r.security().Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
	first, s := p.start(r)
	first.await()
	second := p.exec(first, s, false, "cat=/proc/self/status")
	for name, out := range map[string]string{"container": first.seen, "exec": second.output()} {
		for field, want := range map[string]string{"Uid": "1000 1000 1000 1000", "Gid": "2000 2000 2000 2000", "Groups": "44 2000", "CapAmb": "0000000000000400", "NoNewPrivs": "1", "Seccomp": "2"} {
			if got := status(out, field); got != want {
				t.Errorf("%s: %s is %q, want %q", name, field, got, want)
			}
		}
	}
}

// With a spec that lost its user namespace an exec would be the host's root in the container's place.
func TestExecWithoutTheUserNamespaceIsRefused(t *testing.T) {
	n := newNode(t)
	mappedPod, plain := n.pod(withUsers), n.pod(nil)
	for _, c := range []struct{ in, of *pod }{{mappedPod, plain}, {plain, mappedPod}} {
		first, _ := c.in.start(c.in.request("ready", "wait"))
		first.await()
		unused, s, err := c.of.container(c.of.request())
		if err != nil {
			t.Fatal(err)
		}
		unused.Close()
		plan, err := n.Exec(t.Context(), &engine.Exec{Spec: s, Process: spec.Process(s, []string{"app"}, false), Init: first.pidfd})
		if plan.Close(); !errs.Is(err, errs.Internal) {
			t.Errorf("error %v", err)
		}
	}
}

func TestSysctlsInAUserNamespace(t *testing.T) {
	p := newNode(t).pod(func(s *engine.Sandbox) {
		s.Users = mapped
		s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shmmni": "78", "fs.mqueue.msg_max": "79", "net.ipv4.ping_group_range": "0 65535"}
	})
	out := p.run("cat=/proc/sys/net/ipv4/ip_unprivileged_port_start", "cat=/proc/sys/kernel/shmmni", "cat=/proc/sys/fs/mqueue/msg_max", "cat=/proc/sys/net/ipv4/ping_group_range")
	wants(t, out, "77", "78", "79", "0\t65535")
}

func TestMasksInAUserNamespace(t *testing.T) {
	p := newNode(t).pod(withUsers)
	r := p.request("cat=/proc/meminfo", "ls=/sys/firmware", "write=/proc/sys/net/ipv4/ip_forward,1", "write=/x,y")
	r.security().MaskedPaths, r.security().ReadonlyPaths = []string{"/proc/meminfo", "/sys/firmware", "/proc/none"}, []string{"/proc/sys"}
	r.security().ReadonlyRootfs = true
	proc, _ := p.start(r)
	if out := proc.output(); out != "write /proc/sys/net/ipv4/ip_forward,1 error: open /proc/sys/net/ipv4/ip_forward: read-only file system\n"+
		"write /x,y error: open /x: read-only file system\n" {
		t.Errorf("output:\n%s", out)
	}
}

func TestUserNamespaceWithTheHostsNetwork(t *testing.T) {
	p := newNode(t).pod(func(s *engine.Sandbox) { s.Users, s.HostNetwork = mapped, true })
	r := p.request("ns", "ls=/sys/class/net", "write=/proc/sys/net/ipv4/ip_forward,1", "write=/sys/class/net/lo/mtu,1500")
	r.input.Config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
	proc, _ := p.start(r)
	wants(t, proc.output(), "ns "+nsLink(t, os.Getpid(), "net"), "lo", "write /proc/sys/net/ipv4/ip_forward,1 error: open /proc/sys/net/ipv4/ip_forward: permission denied",
		"write /sys/class/net/lo/mtu,1500 error: open /sys/class/net/lo/mtu: read-only file system")
}

func TestUserNamespacesThatCannotBe(t *testing.T) {
	n := newNode(t)
	for name, s := range map[string]*engine.Sandbox{
		"with the host's IPC namespace":  {Users: mapped, HostIPC: true},
		"with the host's PID namespace":  {Users: mapped, HostPID: true},
		"with a sysctl of the host's":    {Users: mapped, HostNetwork: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}},
		"with the node's":                {Users: mapped, Sysctls: map[string]string{"kernel.core_pattern": "x"}},
		"that is not given to container": nil,
	} {
		var err error
		var plan *engine.Plan
		if s != nil {
			plan, err = n.Sandbox(t.Context(), s)
		} else {
			p := n.pod(withUsers)
			p.namespaces.User.Close()
			p.namespaces.User = nil
			plan, _, err = p.container(p.request())
		}
		if plan.Close(); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	bare, err := native.New(native.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	plan, err := bare.Sandbox(t.Context(), &engine.Sandbox{Users: mapped})
	if plan.Close(); !errs.Is(err, errs.Unimplemented) || bare.Features().UserNamespaces {
		t.Errorf("where it could not be tried: %v", err)
	}
	if f := n.Features(); !f.UserNamespaces || !f.RecursiveReadOnlyMounts {
		t.Errorf("features %+v", f)
	}
}

func TestUserNamespaceOverTheLastID(t *testing.T) {
	n := newNode(t)
	plan, err := n.Sandbox(t.Context(), &engine.Sandbox{Users: &spec.Users{UIDs: specs.LinuxIDMapping{HostID: 1<<32 - 10, Size: 100}, GIDs: mapped.GIDs}})
	if plan.Close(); err == nil || !strings.Contains(err.Error(), "make user namespace: map 100 IDs from 4294967286 on") {
		t.Errorf("error %v", err)
	}
}
