package spec_test

import (
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

func TestCheckSysctls(t *testing.T) {
	for _, c := range []struct {
		name, sysctl, value string
		hostNetwork         bool
		hostIPC             bool
		ok                  bool
	}{
		{"of the network", "net.ipv4.ip_forward", "1", false, true, true},
		{"of the network with slashes", "net/ipv4/conf/eth0.1/forwarding", "1", false, false, true},
		{"of the network, which is the host's (CVE-2022-0532)", "net.ipv4.ip_forward", "1", true, false, false},
		{"of IPC", "kernel.shm_rmid_forced", "1", true, false, true},
		{"of IPC, message queues", "fs.mqueue.msg_max", "10", false, false, true},
		{"of IPC, semaphores", "kernel.sem", "250 32000 32 128", false, false, true},
		{"of IPC, which is the host's", "kernel.msgmax", "1", false, true, false},
		{"of the node", "kernel.core_pattern", "|/x", false, false, false},
		{"of the node, like IPC's", "kernel.semantics", "1", false, false, false},
		{"of the node, file handles", "fs.file-max", "1", false, false, false},
		{"that climbs", "net/../kernel/core_pattern", "x", false, false, false},
		{"that climbs by dots", "net.ipv4.//.kernel", "x", false, false, false},
		{"with no part", "net", "1", false, false, false},
		{"with an empty part", "net..ipv4", "1", false, false, false},
		{"with spaces", " net.ipv4.ip_forward", "1", false, false, false},
		{"with two values (CVE-2022-0811)", "kernel.shmmax", "1\n2", false, false, false},
		{"with no value", "kernel.shmmax", " ", false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := spec.CheckSysctls(map[string]string{c.sysctl: c.value}, c.hostNetwork, c.hostIPC)
			if (err == nil) != c.ok || err != nil && !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func FuzzSysctlPath(f *testing.F) {
	f.Add("net.ipv4.conf.all")
	f.Add("net/ipv4/conf/eth0.1")
	f.Fuzz(func(t *testing.T, name string) {
		p, err := spec.SysctlPath(name)
		if err != nil {
			return
		}
		for _, part := range strings.Split(p, "/") {
			if part == "" || part == "." || part == ".." {
				t.Errorf("%q leads to %q", name, p)
			}
		}
	})
}

func TestStopSignal(t *testing.T) {
	for _, c := range []struct {
		request runtimeapi.Signal
		image   string
		want    syscall.Signal // 0: refused
	}{
		{0, "", syscall.SIGTERM}, {0, "SIGQUIT", syscall.SIGQUIT}, {0, "quit", syscall.SIGQUIT}, {0, "9", syscall.SIGKILL}, {0, "SIGRTMIN+3", 37},
		{0, "RTMAX-1", 63}, {0, "SIGRTMAX", 64}, {0, "0", 0}, {0, "65", 0}, {0, "SIGNOTHING", 0}, {0, "SIGRTMIN+31", 0}, {0, "SIGRTMIN-1", 0},
		{runtimeapi.Signal_SIGNAL_SIGUSR1, "SIGQUIT", syscall.SIGUSR1}, {runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3, "", 37}, {runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14, "", 50},
	} {
		got, err := spec.StopSignal(&runtimeapi.ContainerConfig{StopSignal: c.request}, spec.Image{StopSignal: c.image})
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("request %v, image %q: %d, %v, want %d", c.request, c.image, got, err, c.want)
		}
	}
}

// Every signal of the CRI has a number, and the number leads back to a name of the same signal.
func TestEverySignalOfTheCRIIsKnown(t *testing.T) {
	for n, name := range runtimeapi.Signal_name {
		if n == 0 {
			continue
		}
		s, err := spec.StopSignal(&runtimeapi.ContainerConfig{StopSignal: runtimeapi.Signal(n)}, spec.Image{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back, err := spec.StopSignal(&runtimeapi.ContainerConfig{StopSignal: spec.CRISignal(s)}, spec.Image{})
		if err != nil || back != s || spec.CRISignal(s) == 0 {
			t.Errorf("%s is %d, which is %v", name, s, spec.CRISignal(s))
		}
	}
}

func TestSeccompChoice(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	profile := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	for _, c := range []struct {
		name string
		sc   *sc
		want string // kind and reference, "" if refused
	}{
		{"nothing said is unconfined", nil, "unconfined"},
		{"runtime default", &sc{Seccomp: profile(runtimeapi.SecurityProfile_RuntimeDefault, "")}, "runtime/default"},
		{"a file", &sc{Seccomp: profile(runtimeapi.SecurityProfile_Localhost, "/p.json")}, "localhost/p.json"},
		{"a file by a relative path", &sc{Seccomp: profile(runtimeapi.SecurityProfile_Localhost, "p.json")}, ""},
		{"a type nobody knows", &sc{Seccomp: profile(9, "")}, ""},
		{"privileged ignores it", &sc{Privileged: true, Seccomp: profile(runtimeapi.SecurityProfile_RuntimeDefault, "")}, "unconfined"},
		{"the old field, default", &sc{SeccompProfilePath: "docker/default"}, "runtime/default"},
		{"the old field, file", &sc{SeccompProfilePath: "localhost//p.json"}, "localhost/p.json"},
		{"the old field, nonsense", &sc{SeccompProfilePath: "x"}, ""},
		{"the new field wins", &sc{SeccompProfilePath: "runtime/default", Seccomp: profile(runtimeapi.SecurityProfile_Unconfined, "")}, "unconfined"},
	} {
		p, err := spec.SeccompChoice(c.sc)
		if got := string(p.Kind) + p.Ref; (err == nil) != (c.want != "") || err == nil && got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestAppArmorChoice(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	local := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "localhost/mine"}
	on := spec.Facts{AppArmor: true}
	for _, c := range []struct {
		name  string
		sc    *sc
		facts spec.Facts
		want  string
	}{
		{"nothing said where it is on", nil, on, "runtime/default"},
		{"nothing said where it is off", nil, spec.Facts{}, "unconfined"},
		{"the runtime's where it is off", &sc{ApparmorProfile: "runtime/default"}, spec.Facts{}, "unconfined"},
		{"the node's", &sc{Apparmor: local}, on, "localhostmine"},
		{"the node's where it is off", &sc{Apparmor: local}, spec.Facts{}, ""},
		{"no name", &sc{ApparmorProfile: "localhost/"}, on, ""},
		{"privileged", &sc{Privileged: true, Apparmor: local}, on, "unconfined"},
	} {
		p, err := spec.AppArmorChoice(c.sc, c.facts)
		if got := string(p.Kind) + p.Ref; (err == nil) != (c.want != "") || err == nil && got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// CVE-2021-43784: what is too long is refused here, with its field, not cut somewhere below.
func TestOversizedStringsAreRefused(t *testing.T) {
	big := strings.Repeat("x", 131072)
	for field, in := range map[string]spec.Input{
		"command":     {Config: &runtimeapi.ContainerConfig{Command: []string{"a", big}}},
		"envs":        {Config: &runtimeapi.ContainerConfig{Command: []string{"a"}, Envs: []*runtimeapi.KeyValue{{Key: "K", Value: []byte(big[:131070])}}}},
		"working_dir": {Config: &runtimeapi.ContainerConfig{Command: []string{"a"}, WorkingDir: big}},
		"mounts":      {Config: &runtimeapi.ContainerConfig{Command: []string{"a"}, Mounts: []*runtimeapi.Mount{{ContainerPath: "/" + big, HostPath: "/"}}}},
	} {
		in.Sandbox = &runtimeapi.PodSandboxConfig{}
		if _, err := spec.Container(in); !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), field) || len(err.Error()) > 1000 {
			t.Errorf("%s: %.200v", field, err)
		}
	}
	in := spec.Input{Sandbox: &runtimeapi.PodSandboxConfig{},
		Config: &runtimeapi.ContainerConfig{Command: []string{"a"}, Envs: []*runtimeapi.KeyValue{{Key: "K", Value: []byte(big[:131069])}}}}
	if _, err := spec.Container(in); err != nil {
		t.Errorf("the longest that fits: %.200v", err)
	}
	for name, bad := range map[string]bool{strings.Repeat("h", 64): false, strings.Repeat("h", 65): true, "a\nb": true, "": false} {
		if err := spec.CheckHostname(name); (err != nil) != bad {
			t.Errorf("host name %q: %v", name, err)
		}
	}
}
