package spec

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// ProfileKind says where a security profile comes from.
type ProfileKind string

// The kinds of profile.
const (
	Unconfined     ProfileKind = "unconfined"
	RuntimeDefault ProfileKind = "runtime/default"
	Localhost      ProfileKind = "localhost"
)

// Profile is a security profile asked for.
type Profile struct {
	Kind ProfileKind
	Ref  string // Localhost: a file (seccomp) or a loaded profile's name (AppArmor)
	// Implied says that the request names none.
	Implied bool
}

// SeccompChoice is the seccomp profile a container asks for (CRI SEC-1): none given means unconfined, and so does privileged.
func SeccompChoice(sc *runtimeapi.LinuxContainerSecurityContext) (Profile, error) {
	if sc.GetPrivileged() {
		return Profile{Kind: Unconfined}, nil
	}
	p, err := chooseProfile("seccomp", sc.GetSeccomp(), sc.GetSeccompProfilePath(), Unconfined) //nolint:staticcheck // old kubelets
	if err == nil && p.Kind == Localhost {
		err = checkPath("linux.security_context.seccomp.localhost_ref", p.Ref)
	}
	return p, err
}

// AppArmorChoice is the AppArmor profile a container asks for (CRI APP-1): none given means the runtime's where AppArmor is on. Asking
// for a profile of the node's without AppArmor is an error; asking for the runtime's is not.
func AppArmorChoice(sc *runtimeapi.LinuxContainerSecurityContext, f Facts) (Profile, error) {
	if sc.GetPrivileged() {
		return Profile{Kind: Unconfined}, nil
	}
	p, err := chooseProfile("apparmor", sc.GetApparmor(), sc.GetApparmorProfile(), RuntimeDefault) //nolint:staticcheck // old kubelets
	if err != nil {
		return p, err
	}
	if !f.AppArmor {
		if p.Kind == Localhost {
			return p, errs.New(errs.InvalidArgument, "linux.security_context.apparmor: profile %q is asked for, but AppArmor is off on this node", p.Ref)
		}
		return Profile{Kind: Unconfined}, nil
	}
	if p.Kind == Localhost && (p.Ref == "" || strings.ContainsAny(p.Ref, "\x00\n")) {
		return p, errs.New(errs.InvalidArgument, "linux.security_context.apparmor.localhost_ref: bad profile name %q", p.Ref)
	}
	return p, nil
}

// chooseProfile prefers the structured field over the old string.
func chooseProfile(field string, p *runtimeapi.SecurityProfile, old string, unset ProfileKind) (Profile, error) {
	if p != nil {
		switch p.ProfileType {
		case runtimeapi.SecurityProfile_RuntimeDefault:
			return Profile{Kind: RuntimeDefault}, nil
		case runtimeapi.SecurityProfile_Unconfined:
			return Profile{Kind: Unconfined}, nil
		case runtimeapi.SecurityProfile_Localhost:
			return Profile{Kind: Localhost, Ref: strings.TrimPrefix(p.LocalhostRef, "localhost/")}, nil
		}
		return Profile{}, errs.New(errs.InvalidArgument, "linux.security_context.%s.profile_type: unknown type %v", field, p.ProfileType)
	}
	ref, local := strings.CutPrefix(old, "localhost/")
	switch {
	case old == "":
		return Profile{Kind: unset, Implied: true}, nil
	case old == "unconfined":
		return Profile{Kind: Unconfined}, nil
	case old == "runtime/default", old == "docker/default":
		return Profile{Kind: RuntimeDefault}, nil
	case local:
		return Profile{Kind: Localhost, Ref: ref}, nil
	}
	return Profile{}, errs.New(errs.InvalidArgument, "linux.security_context.%s profile: %q is not known", field, old)
}
