package native_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/engine"
	"fermata/internal/spec"
)

var update = flag.Bool("update", false, "rewrite golden files")

// What runs between clone and exec, op by op: a change of any must be seen in a review.
func TestPrograms(t *testing.T) {
	n := newNode(t)
	caps := spec.Facts{Capabilities: spec.CapabilityNames}
	sandbox := func(s *engine.Sandbox) string {
		plan, err := n.Sandbox(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		defer plan.Close()
		return plan.Program.Listing()
	}
	check(t, "sandbox", sandbox(&engine.Sandbox{ID: "pod", Hostname: "web", UID: 65535, GID: 65535, OOMScoreAdj: -998, SharedPID: true,
		Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}}))
	check(t, "sandbox-of-the-host", sandbox(&engine.Sandbox{ID: "pod", HostNetwork: true, HostIPC: true, HostPID: true}))

	check(t, "sandbox-with-users", sandbox(&engine.Sandbox{ID: "pod", Hostname: "web", UID: 65535, GID: 65535, OOMScoreAdj: -998, Users: mapped}))

	p := n.pod(nil)
	r := p.request()
	r.input.Facts = caps
	r.input.Identity = spec.Identity{UID: 1000, GID: 1000, Groups: []uint32{1000, 44}, Home: "/home/u"}
	r.input.Config.Command = []string{"serve", "--port", "80"}
	r.input.Config.WorkingDir = "/data/in"
	r.input.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: n.mkdir("v")}, {ContainerPath: "/data/a/b", HostPath: n.mkdir("w"), Readonly: true}}
	r.security().MaskedPaths, r.security().ReadonlyPaths = []string{"/proc/kcore", "/sys/firmware"}, []string{"/proc/sys"}
	r.security().NoNewPrivs = true
	plan, s, err := p.container(r)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	check(t, "container", plan.Program.Listing())

	exec, err := n.Exec(t.Context(), &engine.Exec{Spec: s, Process: spec.Process(s, []string{"true"}, false), Init: p.pause.pidfd})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Close()
	check(t, "exec", exec.Program.Listing())

	p = n.pod(withUsers)
	r = p.request()
	r.input.Facts = caps
	inside, _, err := p.container(r)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	check(t, "container-with-users", inside.Program.Listing())
}

func check(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: run with -update and look at the difference; now:\n%s", name, got)
	}
}
