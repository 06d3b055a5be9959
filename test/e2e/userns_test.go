package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// ids are the mappings the kubelet would give a pod.
func ids(host uint32) []*runtimeapi.IDMapping {
	return []*runtimeapi.IDMapping{{HostId: host, Length: 65536}}
}

const (
	hostUID = 1 << 20
	hostGID = 1 << 21
)

// mappedPod runs a pod with a user namespace.
func mappedPod(t *testing.T, n *world, name string) *podOf {
	t.Helper()
	p := &podOf{n: n, logs: filepath.Join(n.Dir, "logs", name)}
	p.config = cri.PodConfig(name, p.logs)
	p.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids(hostUID), Gids: ids(hostGID)}
	var err error
	p.id, err = n.CRI.RunPod(t.Context(), p.config)
	check(t, err)
	return p
}

// mappedShell is a container of it, with the capabilities that containers have unless something else is said.
func (p *podOf) mappedShell(name, script string) *runtimeapi.ContainerConfig {
	ctr := shell(name, script)
	ctr.Linux.SecurityContext.NamespaceOptions.UsernsOptions = p.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions
	return ctr
}

func owned(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Error(err)
	} else if st.Uid != uid || st.Gid != gid {
		t.Errorf("%s belongs to %d:%d on the host, want %d:%d", path, st.Uid, st.Gid, uid, gid)
	}
}

// reported says whether the handlers say that they can, all of them and the same. Where they cannot, a pod is refused in words.
func reported(t *testing.T, n *world) bool {
	t.Helper()
	st, err := n.CRI.Status(t.Context(), &runtimeapi.StatusRequest{})
	check(t, err)
	can := st.GetFeatures().GetUserNamespacesHostNetwork()
	for _, h := range st.GetRuntimeHandlers() {
		if h.GetFeatures().GetUserNamespaces() != can || !h.GetFeatures().GetRecursiveReadOnlyMounts() {
			t.Errorf("features of handler %q: %v", h.GetName(), h.GetFeatures())
		}
	}
	if can {
		return true
	}
	if major, minor := kernel(t); major > 6 || major == 6 && minor >= 3 { // before, a root directory on tmpfs is reason enough
		t.Fatal("not reported by a kernel that can")
	}
	config := cri.PodConfig("cannot", "")
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids(hostUID), Gids: ids(hostGID)}
	if _, err := n.CRI.RunPod(t.Context(), config); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "user namespaces do not work on this node: ") {
		t.Errorf("a pod: %v", err)
	} else {
		t.Log(err)
	}
	return false
}

func kernel(t *testing.T) (major, minor int) {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	check(t, err)
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("kernel %s: %v", release, err)
	}
	return major, minor
}

// A pod with hostUsers: false is root in itself and nobody on the node.
func TestAPodWithAUserNamespace(t *testing.T) {
	n := start(t)
	if !reported(t, n) {
		return
	}
	_, err := n.CRI.Pull(t.Context(), images.Volumes)
	check(t, err)
	p := mappedPod(t, n, "userns")
	volume := filepath.Join(n.Dir, "volume")
	check(t, os.Mkdir(volume, 0o777))
	check(t, os.WriteFile(filepath.Join(volume, "file"), []byte("of the host\n"), 0o600))
	ctr := p.mappedShell("main", "echo out >/dev/stdout; echo err >/dev/stderr; exec sleep 1000")
	ctr.Image.Image = images.Volumes // with /data and /empty of its own
	ctr.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	ctr.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/volume", HostPath: volume, UidMappings: ids(hostUID), GidMappings: ids(hostGID)},
		imageMount("/image", images.Volumes, ""),
	}
	id := p.run(t, ctr)
	exec := func(script, want string) {
		t.Helper()
		if out, err := n.CRI.Exec(t.Context(), id, "sh", "-c", script); err != nil || out != want {
			t.Errorf("%s: %q, %v; want %q", script, out, err, want)
		}
	}
	exec("cat /proc/self/uid_map /proc/1/gid_map | tr -s ' '", " 0 1048576 65536\n 0 2097152 65536\n")
	exec("stat -c '%u:%g' / /bin/busybox /dev /dev/null /dev/shm /dev/pts /etc/hosts /etc/resolv.conf /etc/hostname | uniq -c | tr -s ' '", " 9 0:0\n")
	exec("cat /etc/hostname; echo '192.0.2.1 added' >> /etc/hosts; grep -c added /etc/hosts", "pod\n1\n")
	// Its own network: addresses, sysctls, sysfs.
	exec("ls /sys/class/net | sort", "eth0\nlo\n")
	exec("sysctl -w net.ipv4.ip_forward=1 >/dev/null; cat /proc/sys/net/ipv4/ip_forward", "1\n")
	exec("ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu", "1400\n")
	// Files inside and outside.
	exec("touch /made; chown 1000:2000 /made; stat -c '%u:%g' /made", "1000:2000\n")
	exec("cat /volume/file; chown 5:6 /volume/file; touch /volume/new; stat -c '%u:%g' /volume/file", "of the host\n5:6\n")
	exec("stat -c '%u:%g' /image/bin/busybox /data/file /empty; echo changed > /data/file; /image/bin/busybox cat /data/file; touch /image/x 2>/dev/null || echo read-only", "0:0\n0:0\n0:0\nchanged\nread-only\n")
	exec("echo x > /dev/stdout", "x\n")
	owned(t, volume+"/file", 5, 6)
	owned(t, volume+"/new", 0, 0)
	eventually(t, "both streams in the log", func() (bool, string) {
		lines := strings.Join(p.lines(t, "main"), " ")
		return strings.Contains(lines, "stdout out") && strings.Contains(lines, "stderr err"), lines
	})
	// And over the daemon's death.
	check(t, n.Kill())
	check(t, n.Restart(t.Context()))
	exec("id -u; stat -c '%u:%g' /made", "0\n1000:2000\n")
	second := p.mappedShell("second", "id -u; id -g; cat /proc/self/uid_map | tr -s ' '; ls -d /proc/[0-9]* | head -1; touch /dev/shm/ours")
	second.Linux.SecurityContext.RunAsUser, second.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 3000}
	st, err := n.CRI.WaitExited(t.Context(), p.run(t, second))
	check(t, err)
	if got := fmt.Sprint(p.lines(t, "second")); got != "[stdout 1000 stdout 3000 stdout  0 1048576 65536 stdout /proc/1]" || st.GetExitCode() != 0 {
		t.Errorf("a second container, after the daemon's restart: %s, exit code %d", got, st.GetExitCode())
	}
	exec("stat -c '%u:%g' /dev/shm/ours", "1000:3000\n")
	pod, err := n.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	check(t, err)
	if got := pod.GetStatus().GetLinux().GetNamespaces().GetOptions().GetUsernsOptions().GetUids(); len(got) != 1 || got[0].GetHostId() != hostUID {
		t.Errorf("the pod's status says of users %v", got)
	}
}

// The host's network can go with users of one's own; what is the node's of it cannot be changed then.
func TestAPodWithAUserNamespaceInTheHostsNetwork(t *testing.T) {
	n := start(t)
	if !reported(t, n) {
		return
	}
	p := &podOf{n: n, logs: filepath.Join(n.Dir, "logs", "hostnet")}
	p.config = cri.PodConfig("hostnet", p.logs)
	p.config.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	p.config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids(hostUID), Gids: ids(hostGID)}
	var err error
	p.id, err = n.CRI.RunPod(t.Context(), p.config)
	check(t, err)
	host, err := os.Readlink("/proc/self/ns/net")
	check(t, err)
	ctr := p.mappedShell("main", "readlink /proc/self/ns/net; id -u; ls -d /sys/class/net/lo; sysctl -w net.ipv4.ip_forward=1 2>/dev/null || echo refused")
	ctr.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	_, err = n.CRI.WaitExited(t.Context(), p.run(t, ctr))
	check(t, err)
	if got, want := fmt.Sprint(p.lines(t, "main")), fmt.Sprintf("[stdout %s stdout 0 stdout /sys/class/net/lo stdout refused]", host); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Terminals, forwarded ports and figures, which the daemon has from outside.
func TestSessionsInAPodWithAUserNamespace(t *testing.T) {
	s := newSession(t)
	if !reported(t, s.world) {
		return
	}
	_, err := s.CRI.Pull(t.Context(), images.Nginx)
	check(t, err)
	p := mappedPod(t, s.world, "sessions")
	web := p.run(t, cri.ContainerConfig("web", images.Nginx))
	s.awaitServer(t, web)
	s.forward(t, p.id, "spdy")
	at := p.mappedShell("terminal", "exec sh")
	at.Stdin, at.Tty = true, true
	terminal := p.run(t, at)
	if out, err := s.CRI.Exec(t.Context(), terminal, "stat", "-c", "%u:%g", "/dev/console", "/dev/pts/0", "/dev/pts"); err != nil || out != "0:5\n0:5\n0:0\n" {
		t.Errorf("owners of the terminal: %q, %v", out, err)
	}
	s.atTerminal(t, "exec", "-it", terminal, "sh")
	s.atTerminal(t, "attach", "-it", terminal)
	stats, err := s.CRI.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
	check(t, err)
	if l := stats.GetStats().GetLinux(); l.GetNetwork().GetDefaultInterface().GetName() != "eth0" || l.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("figures: %v", l)
	}
}

// Nothing of what cannot be changes anything.
func TestUserNamespacesThatAreRefused(t *testing.T) {
	n := start(t)
	two := append(ids(hostUID), ids(hostUID)...)
	for name, change := range map[string]func(*runtimeapi.LinuxSandboxSecurityContext, *runtimeapi.UserNamespace){
		"two ranges":  func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) { u.Uids = two },
		"no range":    func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) { u.Gids = nil },
		"other sizes": func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) { u.Gids[0].Length = 1000 },
		"no root": func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) {
			u.Uids[0].ContainerId = 1
		},
		"nobody": func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) {
			u.Uids[0].Length, u.Gids[0].Length = 0, 0
		},
		"beyond the last": func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) {
			u.Uids[0].HostId = 1<<32 - 5
		},
		"mode CONTAINER": func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) {
			u.Mode = runtimeapi.NamespaceMode_CONTAINER
		},
		"mode NODE": func(_ *runtimeapi.LinuxSandboxSecurityContext, u *runtimeapi.UserNamespace) {
			u.Mode = runtimeapi.NamespaceMode_NODE
		},
		"privileged": func(sc *runtimeapi.LinuxSandboxSecurityContext, _ *runtimeapi.UserNamespace) { sc.Privileged = true },
		"the host's PIDs": func(sc *runtimeapi.LinuxSandboxSecurityContext, _ *runtimeapi.UserNamespace) {
			sc.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		},
		"the host's IPC": func(sc *runtimeapi.LinuxSandboxSecurityContext, _ *runtimeapi.UserNamespace) {
			sc.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
		},
	} {
		config := cri.PodConfig("refused", "")
		users := &runtimeapi.UserNamespace{Uids: ids(hostUID), Gids: ids(hostGID)}
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
		change(config.Linux.SecurityContext, users)
		if _, err := n.CRI.RunPod(t.Context(), config); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !reported(t, n) {
		return
	}
	p := mappedPod(t, n, "userns")
	for name, change := range map[string]func(*runtimeapi.ContainerConfig){
		"a user the pod has not": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 65536}
		},
		"a group it has not": func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.SupplementalGroups = []int64{70000} },
		"the host's users": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = runtimeapi.NamespaceMode_NODE
		},
		"privileged": func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true },
	} {
		ctr := shell("refused", "true")
		ctr.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Uids: ids(hostUID), Gids: ids(hostGID)}
		change(ctr)
		if _, err := n.CRI.Create(t.Context(), p.id, p.config, ctr); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a container with %s: %v", name, err)
		}
	}
	plain, _ := pod(t, n, "plain")
	ctr := shell("refused", "true")
	ctr.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: n.Dir, UidMappings: ids(hostUID), GidMappings: ids(hostGID)}}
	if _, err := n.CRI.Create(t.Context(), plain.id, plain.config, ctr); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an idmapped volume in a pod without users of its own: %v", err)
	}
	// A filesystem that cannot be idmapped is told when the container starts.
	ctr = p.mappedShell("cannot", "true")
	ctr.Mounts = []*runtimeapi.Mount{{ContainerPath: "/v", HostPath: "/proc/sys/net", UidMappings: ids(hostUID), GidMappings: ids(hostGID)}}
	id, err := n.CRI.Create(t.Context(), p.id, p.config, ctr)
	check(t, err)
	if err := n.CRI.Start(t.Context(), id); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "/proc/sys/net: its filesystem cannot be mounted for a user namespace") {
		t.Errorf("a volume of procfs: %v", err)
	}
}
