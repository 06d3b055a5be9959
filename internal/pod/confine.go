package pod

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

// AppArmor is the kernel's set of profiles.
type AppArmor interface {
	// Has reports whether a profile is loaded.
	Has(name string) (bool, error)
	// Default returns the runtime's own profile, which is loaded then.
	Default(ctx context.Context) (string, error)
}

// SELinux is the kernel's policy.
type SELinux interface {
	// Check refuses a label that the policy does not know.
	Check(label string) error
}

// appArmorProfile is the profile a container is to run under (APP-1), "" for none. Where the runtime's cannot be loaded, who asked for it
// is refused, and who asked for nothing runs without, as where AppArmor is off.
func (m *Manager) appArmorProfile(ctx context.Context, sc *runtimeapi.LinuxContainerSecurityContext) (string, error) {
	choice, err := spec.AppArmorChoice(sc, m.Facts)
	if err != nil {
		return "", err
	}
	switch choice.Kind {
	case spec.RuntimeDefault:
		name, err := m.AppArmor.Default(ctx)
		if err != nil && choice.Implied {
			m.Log.Debug("a container runs without AppArmor profile", "error", err)
			return "", nil
		}
		return name, err
	case spec.Localhost:
		has, err := m.AppArmor.Has(choice.Ref)
		if err == nil && !has {
			err = errs.New(errs.FailedPrecondition, "linux.security_context.apparmor: profile %q is not loaded on this node", choice.Ref)
		}
		return choice.Ref, err
	}
	return "", nil
}

// selinuxLabels are a container's labels; a pod's own without one (SEL-1). What the policy does not know is refused, also for who would not
// get it (the privileged).
func (m *Manager) selinuxLabels(sandbox *PodRecord, sc *runtimeapi.LinuxContainerSecurityContext) (spec.Labels, error) {
	pod := sandbox.Config.M.GetLinux().GetSecurityContext().GetSelinuxOptions()
	labels, err := spec.SELinuxLabels(m.Facts, pod, sc.GetSelinuxOptions(), sandbox.SELinuxLevel)
	if err != nil || m.Facts.SELinux == nil {
		return labels, err
	}
	for _, l := range []string{labels.Process, labels.Mount} {
		if err := m.SELinux.Check(l); err != nil {
			return spec.Labels{}, err
		}
	}
	return labels, nil
}

// pauseLabels are the pod's own: containers that share its PID namespace may look at pause, and nobody else's.
func (m *Manager) pauseLabels(r *PodRecord) (spec.Labels, error) {
	labels, err := m.selinuxLabels(r, nil)
	pod := r.Config.M.GetLinux().GetSecurityContext()
	if spec.RunsWithoutLabel(r.Config.M, &runtimeapi.LinuxContainerSecurityContext{Privileged: pod.GetPrivileged(), NamespaceOptions: pod.GetNamespaceOptions()}) {
		labels.Process = ""
	}
	return labels, err
}

// categories is how many there are in the policies of distributions, c0 to c1023.
const categories = 1024

// freeLevel is a level of two categories that no pod has; levels is held until the pod that gets it is one of m's.
func (m *Manager) freeLevel() string {
	taken := map[string]bool{}
	for _, p := range m.allPods() {
		r := p.snapshot()
		taken[r.SELinuxLevel] = true
		taken[r.Config.M.GetLinux().GetSecurityContext().GetSelinuxOptions().GetLevel()] = true
	}
	for {
		low, high := rand.IntN(categories), rand.IntN(categories)
		level := fmt.Sprintf("s0:c%d,c%d", low, high)
		if low < high && !taken[level] { // half a million: pods run out of everything else first
			return level
		}
	}
}

// relabelled are the mounts whose source is to be labelled for a container: those that ask for it, and what we made for it ourselves.
func (m *Manager) relabelled(r *ContainerRecord, s *specs.Spec) map[string]bool {
	if s.Linux.MountLabel == "" {
		return nil
	}
	paths := map[string]bool{}
	for _, mount := range r.Config.M.GetMounts() {
		if mount.GetSelinuxRelabel() && mount.GetImage().GetImage() == "" {
			paths[containerPath(mount)] = true
		}
	}
	for _, mount := range s.Mounts {
		if strings.HasPrefix(mount.Source, m.podState(r.PodID)+"/") || strings.HasPrefix(mount.Source, m.containerDir(r)+"/") {
			paths[mount.Destination] = true
		}
	}
	return paths
}
