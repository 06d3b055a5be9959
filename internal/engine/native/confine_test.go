package native_test

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/engine"
	"fermata/internal/spec"
)

// On a kernel without security modules the ops can be looked at, not run: the e2e tests in `make kernels` run them.
func TestAProcessIsConfinedAsItsContainerIs(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	for _, tt := range []struct {
		name  string
		edit  func(*specs.Process)
		wants []string // of container and exec
	}{
		{"by nothing", func(*specs.Process) {}, nil},
		{"by a profile", func(p *specs.Process) { p.ApparmorProfile = "a profile" }, []string{`"self/attr/apparmor/exec"`, `"exec a profile", 14`}},
		{"by a label", func(p *specs.Process) { p.SelinuxLabel = "u:r:t:s0:c1,c2" }, []string{`"self/attr/exec"`, `"u:r:t:s0:c1,c2", 14`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := p.request()
			r.spec = func(s *specs.Spec) { tt.edit(s.Process) }
			container, s, err := p.container(r)
			if err != nil {
				t.Fatal(err)
			}
			defer container.Close()
			exec, err := n.Exec(t.Context(), &engine.Exec{Spec: s, Process: spec.Process(s, []string{"true"}, false), Init: p.pause.pidfd})
			if err != nil {
				t.Fatal(err)
			}
			defer exec.Close()
			for what, plan := range map[string]*engine.Plan{"container": container, "exec": exec} {
				listing := plan.Program.Listing()
				if tt.wants == nil && strings.Contains(listing, "self/attr") {
					t.Errorf("%s sets an attribute:\n%s", what, listing)
				}
				for _, want := range tt.wants {
					if at := strings.Index(listing, want); at < 0 || at > strings.Index(listing, "setresuid") {
						t.Errorf("%s: no %s before it becomes its user:\n%s", what, want, listing)
					}
				}
			}
		})
	}
}
