package seccomp

import (
	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Filter is a compiled profile.
type Filter struct {
	code  []byte
	flags uint
}

// Default returns the default profile (moby's) for a container with these bounding capabilities, on this kernel and architecture.
func Default(bounding []string) (*specs.LinuxSeccomp, error) {
	return nil, errs.New(errs.Unimplemented, "seccomp")
}

// ParseProfile reads a profile file, in the OCI form or in Docker's (archMap, includes, excludes).
func ParseProfile(data []byte) (*specs.LinuxSeccomp, error) {
	return nil, errs.New(errs.Unimplemented, "seccomp")
}

// Compile makes the program of a profile.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	return nil, errs.New(errs.Unimplemented, "seccomp")
}

// Bytes returns the program: an array of struct sock_filter in the machine's byte order.
func (f *Filter) Bytes() []byte { return f.code }

// Len returns the number of instructions.
func (f *Filter) Len() int { return len(f.code) / 8 }

// Flags returns the SECCOMP_FILTER_FLAG_* to load it with.
func (f *Filter) Flags() uint { return f.flags }
