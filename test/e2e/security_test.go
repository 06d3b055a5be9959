package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a security context says is so in the container's first process and in every exec (CRI §4.1 and §4.2).
func TestWhatTheSecurityContextSaysIsSo(t *testing.T) {
	n := start(t)
	profile := filepath.Join(n.Dir, "profile.json")
	check(t, os.WriteFile(profile, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`), 0o600))
	type sc = runtimeapi.LinuxContainerSecurityContext
	seccomp := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	field := func(name string) string { return "sed -n 's/^" + name + ":[[:space:]]*//p' /proc/self/status" }
	user := func(uid int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: uid} }
	p, _ := pod(t, n, "security")
	for name, tt := range map[string]struct {
		sc           *sc
		script, want string
	}{
		"no filter where none is asked":           {&sc{}, field("Seccomp"), "0"},
		"no filter where unconfined is asked":     {&sc{Seccomp: seccomp(runtimeapi.SecurityProfile_Unconfined, "")}, field("Seccomp"), "0"},
		"the runtime's filter":                    {&sc{Seccomp: seccomp(runtimeapi.SecurityProfile_RuntimeDefault, "")}, field("Seccomp") + "; unshare -U true 2>/dev/null || echo denied", "2 denied"},
		"a filter of the node's":                  {&sc{Seccomp: seccomp(runtimeapi.SecurityProfile_Localhost, profile)}, field("Seccomp") + "; mkdir /tmp/x 2>&1 | grep -o 'No space'", "2 No space"},
		"no new privileges":                       {&sc{NoNewPrivs: true}, field("NoNewPrivs"), "1"},
		"paths are masked and read-only as named": {&sc{MaskedPaths: []string{"/etc/passwd", "/proc/scsi"}, ReadonlyPaths: []string{"/proc/sys"}}, "wc -c </etc/passwd; echo 1 2>/dev/null >/proc/sys/kernel/shmmni || echo read-only", "0 read-only"},
		"paths that nobody names are as they are": {&sc{}, "grep -c root /etc/passwd; cat /proc/sys/kernel/shmmni >/proc/sys/kernel/shmmni && echo written", "1 written"},
		"a read-only root":                        {&sc{ReadonlyRootfs: true}, "touch /x 2>&1 | grep -o 'Read-only'; echo x >/dev/shm/x && cat /dev/shm/x", "Read-only x"},
		"another user has no capabilities":        {&sc{RunAsUser: user(1000)}, field("CapEff") + "; id -u", "0000000000000000 1000"},
		"but the ambient ones":                    {&sc{RunAsUser: user(1000), Capabilities: &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}}, field("CapEff") + ";" + field("CapAmb"), "0000000000000400 0000000000000400"},
		"all are dropped but one":                 {&sc{Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"chown"}}}, field("CapBnd") + ";" + field("CapInh"), "0000000000000001 0000000000000000"},
		"groups of the request":                   {&sc{SupplementalGroups: []int64{5000}}, "id -G", "0 5000"},
	} {
		t.Run(name, func(t *testing.T) {
			file := strings.ReplaceAll(name, " ", "-")
			ctr := shell(file, tt.script+"; echo end; exec sleep 1000")
			tt.sc.NamespaceOptions = ctr.Linux.SecurityContext.NamespaceOptions
			ctr.Linux.SecurityContext = tt.sc
			id := p.run(t, ctr)
			eventually(t, "the container's own word", func() (bool, string) {
				got := strings.ReplaceAll(strings.Join(p.lines(t, file), " "), "stdout ", "")
				return got == tt.want+" end", got
			})
			out, err := n.CRI.Exec(t.Context(), id, "sh", "-c", tt.script)
			if got := strings.Join(strings.Fields(out), " "); err != nil || got != tt.want {
				t.Errorf("exec: %q %v, want %q", got, err, tt.want)
			}
		})
	}
}
