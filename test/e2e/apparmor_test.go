package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/apparmor"
)

// needAppArmor skips where the kernel has it off: `make kernels` runs these tests where it is.
func needAppArmor(t *testing.T) {
	t.Helper()
	if !apparmor.Enabled() {
		t.Skip("AppArmor is not on in this kernel")
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Skip("no apparmor_parser here")
	}
}

// confined is a container with everything that would let it do what only the profile forbids.
func confined(name string, profile *runtimeapi.SecurityProfile) *runtimeapi.ContainerConfig {
	ctr := shell(name, "cat /proc/self/attr/apparmor/current; exec sleep 1000")
	ctr.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
	ctr.Linux.SecurityContext.Apparmor = profile
	return ctr
}

func loadProfile(t *testing.T, text string) {
	t.Helper()
	cmd := exec.Command("apparmor_parser", "--replace", "--skip-cache", "--quiet")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("load profile: %v\n%s", err, out)
	}
}

func unloadProfile(t *testing.T, name string) {
	t.Helper()
	check(t, os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte(name), 0))
}

func TestAppArmorsDefaultProfileHoldsContainersAndExecs(t *testing.T) {
	needAppArmor(t)
	n := start(t)
	p, _ := pod(t, n, "apparmor")
	for name, profile := range map[string]*runtimeapi.SecurityProfile{
		"implied": nil, "asked": {ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	} {
		id := p.run(t, confined(name, profile))
		const want = "fermata-default (enforce)"
		eventually(t, "the profile of the first process", func() (bool, string) {
			lines := p.lines(t, name)
			return len(lines) == 1 && lines[0] == "stdout "+want, strings.Join(lines, "; ")
		})
		for _, tt := range []struct {
			what, script, want string // what the script writes and how it ends
		}{
			{"exec is held by it too", "cat /proc/self/attr/apparmor/current", want + "\n0"},
			{"mounting is denied", "mount -t tmpfs x /tmp 2>&1 | grep -c 'Permission denied'", "1\n0"},
			{"a setting of the node is denied", "mkdir -p /tmp/p; cat /proc/sys/kernel/core_pattern >/dev/null && echo x 2>/dev/null >/proc/sys/kernel/core_pattern", "1"},
			{"a setting of the pod is not", "cat /proc/sys/kernel/shmmni > /proc/sys/kernel/shmmni", "0"},
			{"sysrq is denied", "echo h 2>/dev/null > /proc/sysrq-trigger", "1"},
			{"processes of the container take signals", "sleep 100 & kill $! && wait $!; echo $?", "143\n0"},
			{"files are the container's own affair", "echo x > /tmp/f && chmod 755 /tmp/f && rm /tmp/f", "0"},
		} {
			out, _ := n.CRI.Exec(t.Context(), id, "sh", "-c", "("+tt.script+"); echo -n $?")
			if out != tt.want {
				t.Errorf("%s: %s: %q, want %q", name, tt.what, out, tt.want)
			}
		}
		_, err := n.CRI.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1})
		check(t, err)
	}
}

func TestAppArmorProfilesOfTheNode(t *testing.T) {
	needAppArmor(t)
	loadProfile(t, "profile \"e2e deny write\" flags=(attach_disconnected) { file, signal, capability, deny /tmp/** w, }")
	defer unloadProfile(t, "e2e deny write")
	n := start(t)
	p, _ := pod(t, n, "profiles")
	local := func(name string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
	}
	for _, noNewPrivs := range []bool{false, true} {
		ctr := confined(map[bool]string{false: "loaded", true: "nnp"}[noNewPrivs], local("e2e deny write"))
		ctr.Linux.SecurityContext.NoNewPrivs = noNewPrivs
		id := p.run(t, ctr)
		if out, err := n.CRI.Exec(t.Context(), id, "sh", "-c", "cat /proc/self/attr/apparmor/current; echo x 2>/dev/null >/tmp/x || echo denied"); out != "e2e deny write (enforce)\ndenied\n" {
			t.Errorf("exec under the node's profile: %q %v", out, err)
		}
	}
	if _, err := n.CRI.Create(t.Context(), p.id, p.config, confined("missing", local("e2e-no-such-profile"))); err == nil || !strings.Contains(err.Error(), "e2e-no-such-profile") {
		t.Errorf("a profile that is not loaded: %v, want an error that names it", err)
	}
	id := p.run(t, confined("unconfined", &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}))
	if out, err := n.CRI.Exec(t.Context(), id, "cat", "/proc/self/attr/apparmor/current"); out != "unconfined\n" {
		t.Errorf("unconfined: %q %v", out, err)
	}
}

// aa-remove-unknown, which administrators run after removing a package, removes every profile without a file in /etc/apparmor.d.
func TestAppArmorsDefaultProfileComesBackWhenItWasUnloaded(t *testing.T) {
	needAppArmor(t)
	n := start(t)
	p, _ := pod(t, n, "unloaded")
	unloadProfile(t, apparmor.DefaultName)
	id := p.run(t, confined("main", nil))
	if out, err := n.CRI.Exec(t.Context(), id, "cat", "/proc/self/attr/apparmor/current"); out != "fermata-default (enforce)\n" {
		t.Errorf("after the profile was unloaded: %q %v", out, err)
	}
}
