package pod

import (
	"os"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/seccomp"
	"fermata/internal/spec"
)

// profileLimit bounds a Localhost profile's file; the largest known is under 50 kB.
const profileLimit = 1 << 20

// seccompProfile is the profile a container asks for (SEC-1), nil for none.
func (m *Manager) seccompProfile(config *runtimeapi.ContainerConfig) (*specs.LinuxSeccomp, error) {
	sc := config.GetLinux().GetSecurityContext()
	choice, err := spec.SeccompChoice(sc)
	if err != nil {
		return nil, err
	}
	if choice.Kind == spec.Unconfined {
		return nil, nil
	}
	caps, err := spec.Capabilities(sc, m.Facts)
	if err != nil {
		return nil, err
	}
	if choice.Kind == spec.Localhost {
		p, err := localhostProfile(choice.Ref, caps.Bounding)
		return p, errs.Blame(err, "seccomp profile", choice.Ref)
	}
	return seccomp.Default(caps.Bounding)
}

// localhostProfile reads a profile file; in Docker's form it may depend on what capabilities the container can have.
func localhostProfile(path string, bounding []string) (*specs.LinuxSeccomp, error) {
	const field = "security_context.seccomp.localhost_ref"
	f, err := linux.Open(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "%s: %w", field, err)
	}
	defer f.Close()
	b, err := f.ReadAll(profileLimit)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "%s: %w", field, err)
	}
	p, err := seccomp.ParseProfile(b, bounding...)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "%s: %s: %w", field, path, err)
	}
	if _, err := seccomp.Compile(p); err != nil {
		return nil, errs.New(errs.InvalidArgument, "%s: %s: %w", field, path, err)
	}
	return p, nil
}
