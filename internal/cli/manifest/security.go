package manifest

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The paths that procMount Default hides or protects: pkg/securitycontext/util.go of Kubernetes.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func namespaces(pod *Pod) *runtimeapi.NamespaceOption {
	n := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		n.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		n.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		n.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace:
		n.Pid = runtimeapi.NamespaceMode_POD
	}
	return n
}

func sandboxSecurity(pod *Pod) *runtimeapi.LinuxSandboxSecurityContext {
	s := pod.Spec.SecurityContext
	context := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions:         namespaces(pod),
		RunAsUser:                int64Value(s.RunAsUser),
		SupplementalGroups:       groups(pod),
		SupplementalGroupsPolicy: groupsPolicy(s.SupplementalGroupsPolicy),
		Seccomp:                  &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	if s.RunAsUser != nil { // CRI: run_as_group without a user is an error
		context.RunAsGroup = int64Value(s.RunAsGroup)
	}
	for _, list := range [][]Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			context.Privileged = context.Privileged || c.SecurityContext.Privileged
		}
	}
	return context
}

func containerSecurity(pod *Pod, c *Container) *runtimeapi.LinuxContainerSecurityContext {
	p, s := pod.Spec.SecurityContext, c.SecurityContext
	context := &runtimeapi.LinuxContainerSecurityContext{
		Privileged:               s.Privileged,
		NamespaceOptions:         namespaces(pod),
		RunAsUser:                int64Value(first(s.RunAsUser, p.RunAsUser)),
		RunAsGroup:               int64Value(first(s.RunAsGroup, p.RunAsGroup)),
		ReadonlyRootfs:           s.ReadOnlyRootFilesystem,
		SupplementalGroups:       groups(pod),
		SupplementalGroupsPolicy: groupsPolicy(p.SupplementalGroupsPolicy),
		NoNewPrivs:               s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation,
		Seccomp:                  seccompProfile(first(s.SeccompProfile, p.SeccompProfile)),
	}
	if s.Privileged {
		context.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	if s.Capabilities != nil {
		context.Capabilities = &runtimeapi.Capability{AddCapabilities: s.Capabilities.Add, DropCapabilities: s.Capabilities.Drop}
	}
	if s.ProcMount != "Unmasked" {
		context.MaskedPaths, context.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return context
}

// RunsAsRoot reports why a container that must not be root would be: "" if it may run. user is the image's, "" or a number or name.
func RunsAsRoot(pod *Pod, name, user string) string {
	for _, list := range [][]Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if c.Name == name {
				return runsAsRoot(pod, c.SecurityContext, user)
			}
		}
	}
	return ""
}

func runsAsRoot(pod *Pod, s *ContainerSecurity, imageUser string) string {
	nonRoot := first(s.RunAsNonRoot, pod.Spec.SecurityContext.RunAsNonRoot)
	if nonRoot == nil || !*nonRoot {
		return ""
	}
	uid := first(s.RunAsUser, pod.Spec.SecurityContext.RunAsUser)
	switch {
	case uid != nil && *uid == 0:
		return "runAsUser is 0"
	case uid != nil:
		return ""
	case imageUser == "" || imageUser == "0":
		return "the image runs as root"
	}
	for _, c := range imageUser {
		if c < '0' || c > '9' {
			return "the image runs as user " + imageUser + ", which may be root: set runAsUser"
		}
	}
	return ""
}

// seccompProfile takes "not said" as RuntimeDefault, as a kubelet with seccompDefault: true does.
func seccompProfile(p *Profile) *runtimeapi.SecurityProfile {
	if p == nil {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	}
	kinds := map[string]runtimeapi.SecurityProfile_ProfileType{
		"RuntimeDefault": runtimeapi.SecurityProfile_RuntimeDefault,
		"Unconfined":     runtimeapi.SecurityProfile_Unconfined,
		"Localhost":      runtimeapi.SecurityProfile_Localhost,
	}
	return &runtimeapi.SecurityProfile{ProfileType: kinds[p.Type], LocalhostRef: p.LocalhostProfile}
}

// groups are the pod's, and the group that owns its volumes.
func groups(pod *Pod) []int64 {
	s := pod.Spec.SecurityContext
	all := append([]int64(nil), s.SupplementalGroups...)
	if s.FSGroup != nil {
		all = append(all, *s.FSGroup)
	}
	return all
}

func groupsPolicy(policy string) runtimeapi.SupplementalGroupsPolicy {
	if policy == "Strict" {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

// first returns the first that was given.
func first[T any](values ...*T) *T {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}
