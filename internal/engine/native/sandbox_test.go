package native_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/engine"
	"fermata/internal/errs"
)

func TestPauseHoldsThePodAndNothingElse(t *testing.T) {
	n := newNode(t)
	p := n.pod(func(s *engine.Sandbox) { s.OOMScoreAdj = 7 })
	read := func(name string) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.pause.pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	st := read("status")
	for field, want := range map[string]string{
		"Name": "fermata-pause", "Uid": "65535 65535 65535 65535", "Gid": "65535 65535 65535 65535", "Groups": "",
		"CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1", "SigIgn": "0000000000010000", "NSpid": fmt.Sprintf("%d 1", p.pause.pid),
	} {
		if got := status(st, field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	if got := read("oom_score_adj"); got != "7\n" {
		t.Errorf("oom_score_adj %q", got)
	}
	mounts := strings.Split(strings.TrimSpace(read("mountinfo")), "\n")
	all := strings.Join(mounts, "\n")
	if len(mounts) != 3 || !strings.Contains(all, " /proc rw,nosuid,nodev,noexec") || !strings.Contains(all, " / ro,nosuid,noexec") || !strings.Contains(all, " /shm rw,nosuid,nodev,noexec") {
		t.Errorf("its mounts: %q", mounts)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pause.pid))
	if err != nil || len(fds) != 3 {
		t.Errorf("its descriptors: %v, %v", fds, err)
	}
}

func TestSysctlsAreThePodsAlone(t *testing.T) {
	n := newNode(t)
	host := func(name string) string {
		b, _ := os.ReadFile("/proc/sys/" + name)
		return strings.TrimSpace(string(b))
	}
	before := host("net/ipv4/ip_unprivileged_port_start") + host("kernel/shmmni") + host("fs/mqueue/msg_max")
	p := n.pod(func(s *engine.Sandbox) {
		s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shmmni": "78", "fs.mqueue.msg_max": "79", "net/ipv4/ping_group_range": "0 2147483647"}
	})
	wants(t, p.run("cat=/proc/sys/net/ipv4/ip_unprivileged_port_start", "cat=/proc/sys/kernel/shmmni", "cat=/proc/sys/fs/mqueue/msg_max"), "77", "78", "79")
	if after := host("net/ipv4/ip_unprivileged_port_start") + host("kernel/shmmni") + host("fs/mqueue/msg_max"); after != before {
		t.Errorf("the host's changed from %s to %s", before, after)
	}
}

// CVE-2022-0811: one value, one write; what is no value fails and nothing else is touched.
func TestSysctlValueCannotBeMore(t *testing.T) {
	n := newNode(t)
	pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern")
	plan, err := n.Sandbox(t.Context(), &engine.Sandbox{ID: "x", Sysctls: map[string]string{"kernel.shmmni": "1+kernel.core_pattern=|/x"}})
	if err != nil {
		t.Fatal(err)
	}
	proc := n.launchPlan(plan)
	if err := proc.failure(); err == nil || !strings.Contains(err.Error(), "set sysctl kernel.shmmni") || !isErrno(err, syscall.EINVAL) {
		t.Errorf("failure %v", err)
	}
	if after, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); string(after) != string(pattern) {
		t.Errorf("core_pattern is %q now", after)
	}
}

func TestBadSandboxesAreRefused(t *testing.T) {
	n := newNode(t)
	for name, s := range map[string]*engine.Sandbox{
		"a host name over the kernel's":     {Hostname: strings.Repeat("x", 65)},
		"a network sysctl with the host's":  {HostNetwork: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}},
		"a sysctl of the node":              {Sysctls: map[string]string{"kernel.core_pattern": "x"}},
		"a sysctl that leads out":           {Sysctls: map[string]string{"net.../../kernel/core_pattern": "x"}},
		"an IPC sysctl with the host's IPC": {HostIPC: true, Sysctls: map[string]string{"kernel.shmmax": "1"}},
	} {
		if plan, err := n.Sandbox(t.Context(), s); !errs.Is(err, errs.InvalidArgument) {
			plan.Close()
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestContainersSharePodMemory(t *testing.T) {
	p := newNode(t).pod(func(s *engine.Sandbox) { s.ShmSize = 1 << 20 })
	p.run("write=/dev/shm/x,shared")
	out := p.run("cat=/dev/shm/x", "cat=/proc/self/mountinfo")
	if !strings.HasPrefix(out, "shared") || !strings.Contains(out, "size=1024k") {
		t.Errorf("output:\n%s", out)
	}
}

// CVE-2024-9676: whatever lies at /etc/passwd, reading it neither waits nor eats the machine.
func TestReadRootfsFile(t *testing.T) {
	n := newNode(t)
	upper := n.mkdir("upper")
	layers := []string{upper, n.lower}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(syscall.Mkfifo(n.mkdir("upper/etc")+"/fifo", 0o644))
	must(os.Symlink("/dev/zero", upper+"/etc/zero"))
	must(os.Symlink("/etc/passwd", upper+"/etc/link"))
	must(os.Symlink("/proc/self/root/etc/passwd", upper+"/etc/magic"))
	must(os.WriteFile(upper+"/etc/huge", nil, 0o644))
	must(os.Truncate(upper+"/etc/huge", 4<<30))
	must(syscall.Mknod(upper+"/etc/gone", syscall.S_IFCHR, 0))
	n.file(n.lower, "etc/gone", "hidden by a whiteout")
	for _, c := range []struct {
		path, want string
		kind       errs.Kind
	}{
		{"/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0}, {"/etc/link", "root:x:0:0:root:/root:/bin/sh\n", 0},
		{"/etc/fifo", "", errs.InvalidArgument}, {"/etc/zero", "", errs.NotFound}, {"/etc/magic", "", errs.NotFound}, {"/etc/huge", "", errs.InvalidArgument},
		{"/etc/gone", "", errs.NotFound}, {"/etc/none", "", errs.NotFound}, {"/etc", "", errs.InvalidArgument}, {"/etc/passwd/x", "", errs.NotFound},
	} {
		b, err := n.ReadRootfsFile(layers, c.path, 1<<20)
		if string(b) != c.want || (err != nil) != (c.want == "") || c.want == "" && errs.KindOf(err) != c.kind {
			t.Errorf("%s: %q, %v", c.path, b, err)
		}
	}
	if b, err := n.ReadRootfsFile([]string{n.lower}, "/etc/passwd", 1<<20); err != nil || len(b) == 0 {
		t.Errorf("of one layer: %q, %v", b, err)
	}
}
