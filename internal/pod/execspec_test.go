package pod

import (
	"errors"
	"fmt"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/spec"
)

func TestExecSpecsAreReadOnceShareProfilesAndAreBounded(t *testing.T) {
	var e execSpecs
	reads := 0
	read := func() (*specs.Spec, error) {
		reads++
		return &specs.Spec{Hostname: "not kept", Process: &specs.Process{Cwd: "/"}, Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{DefaultAction: "a"}}}, nil
	}
	first := must[*specs.Spec](t)(e.get("a", read))
	if again := must[*specs.Spec](t)(e.get("a", read)); again != first || reads != 1 || again.Process.Cwd != "/" || again.Hostname != "" {
		t.Errorf("got %+v after %d reads", again, reads)
	}
	if other := must[*specs.Spec](t)(e.get("b", read)); other.Linux.Seccomp != first.Linux.Seccomp {
		t.Error("equal profiles are kept twice")
	}
	e.drop("a")
	if must[*specs.Spec](t)(e.get("a", read)); reads != 3 {
		t.Errorf("%d reads, a dropped one is to be read again", reads)
	}
	for i := range 2 * maxExecSpecs {
		must[*specs.Spec](t)(e.get(fmt.Sprint(i), func() (*specs.Spec, error) {
			return &specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(fmt.Sprint(i))}}}, nil
		}))
	}
	if len(e.known) > maxExecSpecs || len(e.profiles) > maxExecProfiles {
		t.Errorf("%d specs and %d profiles are kept", len(e.known), len(e.profiles))
	}
	ids := []specs.LinuxIDMapping{{HostID: 5, Size: 6}}
	mapped := must[*specs.Spec](t)(e.get("mapped", func() (*specs.Spec, error) {
		return &specs.Spec{Linux: &specs.Linux{UIDMappings: ids, GIDMappings: ids}}, nil
	}))
	if users := spec.UsersOf(mapped); users == nil || users.GIDs.HostID != 5 { // without, an exec would be the host's root
		t.Errorf("the user namespace is not kept: %+v", mapped.Linux)
	}
	bad := errors.New("unreadable")
	if _, err := e.get("bad", func() (*specs.Spec, error) { return nil, bad }); !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
	if must[*specs.Spec](t)(e.get("bare", func() (*specs.Spec, error) { return &specs.Spec{}, nil })).Linux == nil {
		t.Error("a spec without a Linux part is not one for an exec")
	}
}
