package pod

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

func TestWhichSeccompProfileAContainerGets(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	local := func(path string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: path}
	}
	mine := write("mine.json", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		sc      *sc
		want    specs.LinuxSeccompAction // of what no rule names; "" for no filter
		refused bool
	}{
		{name: "nothing asked is none", sc: &sc{}},
		{name: "unconfined", sc: &sc{Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}}},
		{name: "the runtime's", sc: &sc{Seccomp: &runtimeapi.SecurityProfile{}}, want: specs.ActErrno},
		{name: "the runtime's in the old field", sc: &sc{SeccompProfilePath: "runtime/default"}, want: specs.ActErrno},
		{name: "a file of the node's", sc: &sc{Seccomp: local(mine)}, want: specs.ActAllow},
		{name: "a file in the old field", sc: &sc{SeccompProfilePath: "localhost/" + mine}, want: specs.ActAllow},
		{name: "a privileged container ignores it", sc: &sc{Privileged: true, Seccomp: local(mine)}},
		{name: "a file that is not there", sc: &sc{Seccomp: local(dir + "/none.json")}, refused: true},
		{name: "a file that is no profile", sc: &sc{Seccomp: local(write("bad.json", "{"))}, refused: true},
		{name: "a file with an action nobody knows", sc: &sc{Seccomp: local(write("action.json", `{"defaultAction": "SCMP_ACT_MAYBE"}`))}, refused: true},
		{name: "a file too long", sc: &sc{Seccomp: local(write("long.json", strings.Repeat(" ", profileLimit+1)))}, refused: true},
		{name: "a FIFO, which is not waited for", sc: &sc{Seccomp: local(fifo)}, refused: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			pod := sandboxRequest("a")
			pod.Config.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}
			podID := must[string](t)(n.RunPodSandbox(t.Context(), pod))
			req := containerRequest(podID, pod, "c")
			req.Config.Linux.SecurityContext = tt.sc
			id, err := n.CreateContainer(t.Context(), req)
			if tt.refused {
				if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "seccomp") {
					t.Errorf("%v, want a refusal that names the field", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s, err := n.records.ReadSpec(podID, id)
			if err != nil {
				t.Fatal(err)
			}
			var got specs.LinuxSeccompAction
			if s.Linux.Seccomp != nil {
				got = s.Linux.Seccomp.DefaultAction
			}
			if got != tt.want {
				t.Errorf("default action %q, want %q", got, tt.want)
			}
		})
	}
}
