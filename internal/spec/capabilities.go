package spec

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// CapabilityNames are all capabilities, by their number (capabilities(7), Linux 6.18).
var CapabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultCapabilities are Docker's, as containerd gives them (CRI CAP-1).
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

const allCapabilities = "ALL"

// Capabilities are a container's five sets. Nothing is in them that the daemon could not give. The inheritable set is the ambient one
// and no more (CVE-2022-24769).
func Capabilities(sc *runtimeapi.LinuxContainerSecurityContext, f Facts) (*specs.LinuxCapabilities, error) {
	add, err := capabilityNames("add_capabilities", sc.GetCapabilities().GetAddCapabilities())
	if err != nil {
		return nil, err
	}
	drop, err := capabilityNames("drop_capabilities", sc.GetCapabilities().GetDropCapabilities())
	if err != nil {
		return nil, err
	}
	ambient, err := capabilityNames("add_ambient_capabilities", sc.GetCapabilities().GetAddAmbientCapabilities())
	if err != nil {
		return nil, err
	}
	if sc.GetPrivileged() {
		return sets(f.Capabilities, nil, f), nil
	}
	base := defaultCapabilities
	if slices.Contains(add, allCapabilities) || slices.Contains(ambient, allCapabilities) {
		base = f.Capabilities
	}
	if slices.Contains(drop, allCapabilities) {
		base = nil
	}
	if slices.Contains(ambient, allCapabilities) {
		ambient = f.Capabilities
	}
	dropped := func(name string) bool { return slices.Contains(drop, name) }
	bounding := slices.DeleteFunc(slices.Concat(base, add, ambient), dropped)
	return sets(bounding, slices.DeleteFunc(slices.Clone(ambient), dropped), f), nil
}

// sets puts capabilities in the kernel's order, less those the daemon lacks.
func sets(bounding, ambient []string, f Facts) *specs.LinuxCapabilities {
	bounding, ambient = available(bounding, f), available(ambient, f)
	return &specs.LinuxCapabilities{
		Bounding: bounding, Effective: slices.Clone(bounding), Permitted: slices.Clone(bounding),
		Inheritable: ambient, Ambient: slices.Clone(ambient),
	}
}

func available(names []string, f Facts) []string {
	out := []string{}
	for _, c := range CapabilityNames {
		if slices.Contains(names, c) && slices.Contains(f.Capabilities, c) {
			out = append(out, c)
		}
	}
	return out
}

// capabilityNames brings names to the form "CAP_X" (or "ALL") and refuses unknown ones.
func capabilityNames(field string, names []string) ([]string, error) {
	out := make([]string, 0, len(names))
	for _, n := range names {
		c := strings.ToUpper(n)
		if c != allCapabilities {
			c = "CAP_" + strings.TrimPrefix(c, "CAP_")
		}
		if c != allCapabilities && !slices.Contains(CapabilityNames, c) {
			return nil, errs.New(errs.InvalidArgument, "linux.security_context.capabilities.%s: unknown capability %q", field, n)
		}
		out = append(out, c)
	}
	return out, nil
}
