package seccomp

import (
	"encoding/json"

	"fermata/internal/errs"

	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxProfile bounds a profile file. The largest in use (moby's default) is under 20 KiB.
const maxProfile = 1 << 20

// Default returns the default profile (moby's, which containerd's equals in effect) for a container with these bounding capabilities
// ("CAP_SYS_ADMIN", …), on this kernel and architecture. The profile is the caller's to change.
func Default(bounding []string) (*specs.LinuxSeccomp, error) {
	p, err := moby.GetDefaultProfile(capabilities(bounding))
	if err != nil {
		return nil, errs.New(errs.Internal, "make default seccomp profile: %w", err)
	}
	return p, nil
}

// ParseProfile reads a profile file, in the OCI form (LinuxSeccomp of the runtime specification) or in Docker's, whose archMap, includes and
// excludes are resolved for this machine and the bounding capabilities given. InvalidArgument if it is neither; whether its rules make sense is
// [Compile]'s to say.
func ParseProfile(data []byte, bounding ...string) (*specs.LinuxSeccomp, error) {
	if len(data) > maxProfile {
		return nil, errs.New(errs.InvalidArgument, "parse seccomp profile: %d bytes are over %d", len(data), maxProfile)
	}
	// moby's loader trusts its input: a null among the rules would end the daemon.
	var probe struct {
		DefaultAction string             `json:"defaultAction"`
		Syscalls      []*json.RawMessage `json:"syscalls"`
	}
	if err := json.Unmarshal(data, &probe); err != nil {
		return nil, errs.New(errs.InvalidArgument, "parse seccomp profile: %w", err)
	}
	for i, s := range probe.Syscalls {
		if s == nil {
			return nil, errs.New(errs.InvalidArgument, "parse seccomp profile: syscalls[%d] is null", i)
		}
	}
	if probe.DefaultAction == "" {
		return nil, errs.New(errs.InvalidArgument, "parse seccomp profile: no defaultAction")
	}
	p, err := moby.LoadProfile(string(data), capabilities(bounding))
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "parse seccomp profile: %w", err)
	}
	return p, nil
}

// capabilities is the part of a container's specification that moby's conditions look at.
func capabilities(bounding []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: bounding}}}
}
