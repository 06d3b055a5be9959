package native_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/seccomp"
	"fermata/internal/spec"
)

// wants checks that each line is in the output, whole.
func wants(t *testing.T, out string, lines ...string) {
	t.Helper()
	have := strings.Split(out, "\n")
	for _, l := range lines {
		if !slices.Contains(have, l) {
			t.Errorf("no line %q in the output:\n%s", l, out)
		}
	}
}

func TestContainerRunsInThePodsNamespaces(t *testing.T) {
	p := newNode(t).pod(nil)
	out := p.run("pid", "hostname", "cwd", "ns", "umask", "cat=/etc/hostname")
	wants(t, out, "pid 1", "hostname pod-host", "cwd /", "umask 22", "pod-host")
	for _, kind := range []string{"net", "ipc", "uts"} {
		if want := nsLink(t, p.pause.pid, kind); !strings.Contains(out, "ns "+want+"\n") {
			t.Errorf("%s namespace is not the pod's %s", kind, want)
		}
	}
	for _, kind := range []string{"net", "ipc", "uts", "mnt", "pid", "cgroup"} {
		if host := nsLink(t, os.Getpid(), kind); strings.Contains(out, "ns "+host+"\n") {
			t.Errorf("%s namespace is the host's", kind)
		}
	}
}

func nsLink(t *testing.T, pid int, kind string) string {
	t.Helper()
	link, err := os.Readlink(filepath.Join("/proc", itoa(pid), "ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// R4: whatever the program has open, the container has three.
func TestContainerGetsNoDescriptorButItsStdio(t *testing.T) {
	p := newNode(t).pod(nil)
	out := p.run("fds")
	if n := strings.Count(out, "fd "); n != 3 || !strings.Contains(out, "fd 2 pipe:") {
		t.Errorf("its descriptors:\n%s", out)
	}
}

func TestIdentityIsExactlyWhatTheSpecSays(t *testing.T) {
	p := newNode(t).pod(nil)
	const defaults = "00000000a80425fb"
	for _, c := range []struct {
		name  string
		set   func(*request)
		wants map[string]string
	}{
		{"root has the default capabilities, none inheritable", func(r *request) {},
			map[string]string{"Uid": "0 0 0 0", "CapInh": "0000000000000000", "CapPrm": defaults, "CapEff": defaults, "CapBnd": defaults, "CapAmb": "0000000000000000",
				"NoNewPrivs": "0", "Seccomp": "0", "SigIgn": "0000000000000000", "SigBlk": "0000000000000000"}},
		{"another user has none of them effective", func(r *request) {
			r.input.Identity = spec.Identity{UID: 1000, GID: 2000, Groups: []uint32{2000, 7, 4294967294}}
		}, map[string]string{"Uid": "1000 1000 1000 1000", "Gid": "2000 2000 2000 2000", "Groups": "7 2000 4294967294",
			"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": defaults}},
		{"an ambient capability survives the change of user", func(r *request) {
			r.input.Identity = spec.Identity{UID: 1000, GID: 1000}
			r.security().Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_ADMIN"}}
		}, map[string]string{"CapInh": "0000000000001000", "CapPrm": "0000000000001000", "CapEff": "0000000000001000", "CapBnd": "0000000000001000", "CapAmb": "0000000000001000"}},
		{"no_new_privs and a filter, loaded last", func(r *request) {
			r.input.Identity = spec.Identity{UID: 1000, GID: 1000}
			r.security().NoNewPrivs = true
			r.input.Seccomp = defaultProfile(p.t)
		}, map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1", "CapEff": "0000000000000000"}},
		{"a filter without no_new_privs, loaded while that is allowed", func(r *request) {
			r.input.Identity = spec.Identity{UID: 1000, GID: 1000}
			r.input.Seccomp = defaultProfile(p.t)
		}, map[string]string{"NoNewPrivs": "0", "Seccomp": "2", "Seccomp_filters": "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.request("cat=/proc/self/status")
			c.set(r)
			proc, _ := p.start(r)
			out := proc.output()
			for field, want := range c.wants {
				if got := status(out, field); got != want {
					t.Errorf("%s is %q, want %q", field, got, want)
				}
			}
		})
	}
}

func defaultProfile(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	profile, err := seccomp.Default(nil)
	if err != nil {
		t.Fatal(err)
	}
	return profile
}

func TestPathsAreMaskedAndReadOnly(t *testing.T) {
	n := newNode(t)
	n.file(n.lower, "etc/secret", "secret")
	n.file(n.lower, "etc/fixed/file", "old")
	p := n.pod(nil)
	r := p.request("stat=/proc/timer_list", "ls=/sys/firmware", "stat=/etc/secret", "cat=/etc/secret", "write=/proc/sys/kernel/domainname,x", "write=/etc/fixed/file,new",
		"cat=/etc/fixed/file", "ls=/etc/dir")
	n.file(n.lower, "etc/dir/inside", "")
	r.security().MaskedPaths = []string{"/proc/kcore", "/proc/timer_list", "/proc/not-there", "/sys/firmware", "/etc/secret", "/etc/dir", "/etc/not/there"}
	r.security().ReadonlyPaths = []string{"/proc/sys", "/proc/not-there", "/etc/fixed"}
	proc, _ := p.start(r)
	out := proc.output()
	null := func(f string) string { return f + ": mode 20666 dev 1:3 owner 0:0" }
	wants(t, out, null("/proc/timer_list"), null("/etc/secret"), "old")
	if strings.Contains(out, "inside") || strings.Contains(out, "secret\n") && strings.Contains(out, "\nsecret") || strings.Count(out, "read-only file system") != 2 {
		t.Errorf("output:\n%s", out)
	}
}

// CVE-2019-19921 and its kin: an image that has links where kernel trees go.
func TestLinkedKernelTreesAreRefused(t *testing.T) {
	for _, tree := range []string{"proc", "sys", "dev"} {
		t.Run(tree, func(t *testing.T) {
			n := newNode(t)
			canary := n.mkdir("canary")
			if err := os.Remove(filepath.Join(n.lower, tree)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(canary, filepath.Join(n.lower, tree)); err != nil {
				t.Fatal(err)
			}
			p := n.pod(nil)
			plan, _, err := p.container(p.request())
			if err == nil {
				plan.Close()
				t.Fatal("planned")
			}
			if !strings.Contains(err.Error(), "symbolic link") {
				t.Errorf("error %v", err)
			}
			if left, _ := os.ReadDir(canary); len(left) != 0 {
				t.Errorf("made on the host: %v", left)
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	volume, inner, single := n.mkdir("volume"), n.mkdir("inner"), n.file(n.dir, "single", "single")
	n.file(volume, "v", "in volume")
	n.file(inner, "i", "in inner")
	if err := os.Symlink(volume, filepath.Join(n.dir, "link")); err != nil {
		t.Fatal(err)
	}
	// The rootfs has a link that a volume will lie behind, and one that leads nowhere.
	for link, to := range map[string]string{"run": "", "var/run": "/run", "etc/dangling": "/lost/and/found"} {
		if to == "" {
			n.mkdir("lower/" + link)
			continue
		}
		n.mkdir("lower/" + filepath.Dir(link))
		if err := os.Symlink(to, filepath.Join(n.lower, link)); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(host, container string, more ...func(*runtimeapi.Mount)) *runtimeapi.Mount {
		m := &runtimeapi.Mount{HostPath: host, ContainerPath: container}
		for _, f := range more {
			f(m)
		}
		return m
	}
	readOnly := func(m *runtimeapi.Mount) { m.Readonly = true }
	for _, c := range []struct {
		name   string
		mounts []*runtimeapi.Mount
		do     []string
		wants  []string
	}{
		{"a directory is mounted where nothing is yet", []*runtimeapi.Mount{mount(volume, "/new/deep/place")}, []string{"ls=/new/deep/place"}, []string{"v"}},
		{"a file is mounted where nothing is yet", []*runtimeapi.Mount{mount(single, "/new/file")}, []string{"cat=/new/file"}, []string{"single"}},
		{"a read-only volume cannot be written", []*runtimeapi.Mount{mount(volume, "/data", readOnly)}, []string{"write=/data/x,y"},
			[]string{"write /data/x,y error: open /data/x: read-only file system"}},
		{"a link on the host is followed", []*runtimeapi.Mount{mount(filepath.Join(n.dir, "link"), "/data")}, []string{"ls=/data"}, []string{"v"}},
		{"a missing directory on the host is made", []*runtimeapi.Mount{mount(filepath.Join(n.dir, "missing/dir"), "/data")}, []string{"write=/data/x,y", "cat=/data/x"}, []string{"y"}},
		{"a volume in a volume gets its place there", []*runtimeapi.Mount{mount(inner, "/data/a/b"), mount(volume, "/data")}, []string{"ls=/data/a/b", "ls=/data"}, []string{"i", "v", "a"}},
		{"a file in a volume gets its place there", []*runtimeapi.Mount{mount(single, "/data/c/f"), mount(volume, "/data")}, []string{"cat=/data/c/f"}, []string{"single"}},
		{"a volume below a link to another volume", []*runtimeapi.Mount{mount(inner, "/var/run/secrets"), mount(volume, "/run")}, []string{"ls=/run/secrets", "ls=/var/run"}, []string{"i", "v"}},
		{"a link of the image that leads nowhere gets its target", []*runtimeapi.Mount{mount(single, "/etc/dangling")}, []string{"cat=/lost/and/found"}, []string{"single"}},
		{"a file in /dev", []*runtimeapi.Mount{mount(single, "/dev/termination-log")}, []string{"cat=/dev/termination-log"}, []string{"single"}},
		{"one's own /etc/hosts wins", []*runtimeapi.Mount{mount(single, "/etc/hosts")}, []string{"cat=/etc/hosts"}, []string{"single"}},
		{"noexec is applied", []*runtimeapi.Mount{mount(volume, "/data", func(m *runtimeapi.Mount) { m.MountOptions = []string{"noexec", "nodev"} })},
			[]string{"cat=/proc/self/mountinfo"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.request(c.do...)
			r.input.Config.Mounts = c.mounts
			proc, _ := p.start(r)
			out := strings.ReplaceAll(proc.output(), "singlein", "single\nin")
			wants(t, out+"\n", c.wants...)
			if c.wants == nil && !strings.Contains(out, "/data rw,nodev,noexec,relatime") {
				t.Errorf("output:\n%s", out)
			}
		})
	}
}

// The kernel follows what a volume's owner has put there, but never out of the root (CVE-2021-30465).
func TestLinksInVolumesStayInside(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	canary, volume, inner := n.mkdir("canary"), n.mkdir("volume"), n.mkdir("inner")
	if err := os.Symlink(canary, filepath.Join(volume, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../.."+canary, filepath.Join(volume, "up")); err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"out", "up"} {
		r := p.request("ls=/")
		r.input.Config.Mounts = []*runtimeapi.Mount{{HostPath: volume, ContainerPath: "/data"}, {HostPath: inner, ContainerPath: "/data/" + way + "/made"}}
		plan, _, err := p.container(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.launchPlan(plan).failure(); err == nil {
			t.Errorf("%s: started though the place of its volume is missing", way)
		}
	}
	if left, _ := os.ReadDir(canary); len(left) != 0 {
		t.Errorf("made on the host: %v", left)
	}
}

func TestWorkingDirectory(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	volume := n.mkdir("volume")
	for _, c := range []struct {
		name, dir string
		fails     bool
	}{
		{"one that is there", "/etc", false},
		{"a missing one is made", "/some/where", false},
		{"a missing one in a volume is made", "/data/w/d", false},
		{"a descriptor left open by the runtime (CVE-2024-21626)", "/proc/self/fd/5", true},
		{"another one", "/proc/self/fd/7", true},
		{"a file", "/etc/passwd", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.request("cwd")
			r.input.Config.WorkingDir = c.dir
			r.input.Config.Mounts = []*runtimeapi.Mount{{HostPath: volume, ContainerPath: "/data"}}
			plan, _, err := p.container(r)
			if err != nil {
				if !c.fails {
					t.Error(err)
				}
				return
			}
			proc := p.launchPlan(plan)
			if c.fails {
				if err := proc.failure(); err == nil || !strings.Contains(err.Error(), "working directory "+c.dir) {
					t.Errorf("failure %v", err)
				}
				return
			}
			wants(t, proc.output(), "cwd "+c.dir)
		})
	}
}

func TestReadOnlyRootfs(t *testing.T) {
	p := newNode(t).pod(nil)
	r := p.request("write=/x,y", "write=/dev/shm/x,y", "cat=/dev/shm/x", "write=/etc/hosts,x")
	r.security().ReadonlyRootfs = true
	proc, _ := p.start(r)
	wants(t, proc.output()+"\n", "write /x,y error: open /x: read-only file system", "ywrite /etc/hosts,x error: open /etc/hosts: read-only file system")
}

func TestExecutableIsLookedUpInTheContainer(t *testing.T) {
	n := newNode(t)
	n.file(n.lower, "bin/data", "no program")
	if err := os.Chmod(n.file(n.lower, "bin/closed", "x"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := n.pod(nil)
	for _, c := range []struct {
		name, command, path, want string
		errno                     syscall.Errno
	}{
		{"by name", "app", "/nowhere:/bin", "", 0},
		{"a name that is nowhere", "x", "/bin:/nowhere", `exec "x": executable file not found in $PATH`, syscall.ENOENT},
		{"a path that is not there", "/bin/x", "", `exec "/bin/x": no such file or directory`, syscall.ENOENT},
		{"a file that may not be executed", "closed", "/bin", `exec "closed": permission denied`, syscall.EACCES},
		{"a file that is no program", "/bin/data", "", `exec "/bin/data": exec format error`, syscall.ENOEXEC},
		{"a directory", "/etc", "", `exec "/etc": permission denied`, syscall.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.request()
			r.input.Config.Command = []string{c.command, "ready"}
			r.input.Config.Envs = []*runtimeapi.KeyValue{{Key: "PATH", Value: []byte(c.path)}}
			proc, _ := p.start(r)
			err := proc.failure()
			switch {
			case c.want == "" && err == nil:
				wants(t, proc.output(), "ready")
			case err == nil || err.Error() != c.want || !isErrno(err, c.errno):
				t.Errorf("failure %v, want %q", err, c.want)
			}
		})
	}
}

func TestTerminal(t *testing.T) {
	p := newNode(t).pod(nil)
	r := p.request("tty", "stat=/dev/console", "ls=/dev/pts", "fds")
	r.input.Config.Tty = true
	proc, _ := p.start(r)
	out := strings.ReplaceAll(proc.output(), "\r", "")
	wants(t, out, "tty 0 /dev/pts/0 <nil>", "tty 2 /dev/pts/0 <nil>", "/dev/console: mode 20620 dev 136:0 owner 0:5")
}

func TestPrivilegedContainer(t *testing.T) {
	p := newNode(t).pod(nil)
	r := p.request("cat=/proc/self/status", "stat=/dev/net/tun", "cat=/proc/self/mountinfo")
	r.security().Privileged = true
	r.input.Facts.Devices = []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200}, {Path: "/dev/null", Type: "c", Major: 1, Minor: 3}}
	proc, _ := p.start(r)
	out := proc.output()
	all := facts().Capabilities
	if got := strings.Count(bits(status(out, "CapEff")), "1"); got != len(all) {
		t.Errorf("%d capabilities, want the daemon's %d", got, len(all))
	}
	wants(t, out, "/dev/net/tun: mode 20666 dev 10:200 owner 0:0")
	if !strings.Contains(out, "/sys rw,") {
		t.Error("sysfs is not writable")
	}
}

func TestImageVolumes(t *testing.T) {
	n := newNode(t)
	image := []string{n.mkdir("image/2"), n.mkdir("image/1")}
	n.file(image[1], "sub/dir/file", "of the image")
	n.file(image[0], "top", "")
	if err := os.Symlink("/etc", filepath.Join(image[0], "out")); err != nil {
		t.Fatal(err)
	}
	p := n.pod(nil)
	for sub, want := range map[string]string{"": "sub", "sub": "dir", "/sub/dir/": "file"} {
		volume, err := n.ImageVolume(image, sub, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		r := p.request("ls=/volume", "write=/volume/x,y")
		r.input.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: "x"}, Readonly: true}}
		r.plan = func(c *engine.Container) { c.Sources = map[string]*linux.FD{"/volume": volume} }
		proc, _ := p.start(r)
		wants(t, proc.output(), want, "write /volume/x,y error: open /volume/x: read-only file system")
		volume.Close()
	}
	for _, sub := range []string{"none", "out", "../../etc", "top"} {
		if volume, err := n.ImageVolume(image, sub, nil, ""); !errs.Is(err, errs.NotFound) {
			volume.Close()
			t.Errorf("%s: error %v", sub, err)
		}
	}
	r := p.request()
	r.input.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: "x"}, Readonly: true}}
	if plan, _, err := p.container(r); !errs.Is(err, errs.InvalidArgument) {
		plan.Close()
		t.Errorf("an image volume that was not given: %v", err)
	}
}

// Below Linux 6.15 a part of a detached mount is cloned in a copy of the mount namespace.
func TestAPartOfAnImageOnOlderKernels(t *testing.T) {
	n := newNode(t)
	two := []string{n.mkdir("image/2"), n.mkdir("image/1")}
	n.file(two[1], "sub/dir/file", "of the image")
	p := n.pod(nil)
	for _, layers := range [][]string{two, two[1:]} { // an overlay, and a clone of the one layer
		whole, err := n.ImageVolume(layers, "", nil, "")
		if err != nil {
			t.Fatal(err)
		}
		part, err := whole.CloneInside("sub/dir", layers[0])
		whole.Close()
		if err != nil {
			t.Fatal(err)
		}
		r := p.request("ls=/volume", "write=/volume/x,y")
		r.input.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: "x"}, Readonly: true}}
		r.plan = func(c *engine.Container) { c.Sources = map[string]*linux.FD{"/volume": part} }
		proc, _ := p.start(r)
		wants(t, proc.output(), "file", "write /volume/x,y error: open /volume/x: read-only file system")
		part.Close()
		if _, err := os.Stat(filepath.Join(layers[0], "dir")); err == nil {
			t.Error("it is mounted where the host sees it")
		}
	}
}

func TestNothingIsWrittenForMountsThatHaveTheirPlace(t *testing.T) {
	n := newNode(t)
	if err := os.RemoveAll(filepath.Join(n.lower, "proc")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*pod{n.pod(nil), n.pod(withUsers)} {
		r := p.request("ls=/")
		proc, _ := p.start(r)
		wants(t, proc.output(), "proc", "etc")
		if made, err := os.ReadDir(r.rootfs.Upper); err != nil || len(made) != 0 {
			t.Errorf("in the upper directory: %v, %v", made, err)
		}
	}
}
