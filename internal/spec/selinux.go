package spec

import (
	"cmp"
	"path"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// SELinux is what the node's policy has for containers: labels "user:role:type:level". Where it names none both are "".
type SELinux struct {
	Process, File string
	// Image is the label of images' files, which every container may read and run.
	Image string
}

// Labels are what SELinux knows a container by; "" is none of its own.
type Labels struct {
	Process string // of its processes
	Mount   string // of its files: the context of its filesystems, what volumes are relabelled to
}

// label is a label in its parts. The level may have colons: "s0:c1,c2".
type label struct{ user, role, kind, level string }

func parseLabel(s string) label {
	p := append(strings.SplitN(s, ":", 4), "", "", "")
	return label{p[0], p[1], p[2], p[3]}
}

func (l label) String() string {
	if l.user == "" || l.role == "" || l.kind == "" {
		return ""
	}
	if l.level == "" { // a policy without levels
		return l.user + ":" + l.role + ":" + l.kind
	}
	return l.user + ":" + l.role + ":" + l.kind + ":" + l.level
}

// SELinuxLabels are the labels of a container (CRI SEL-1): the policy's, changed by what the pod says, changed by what the container says.
// level is the pod's own, for who names none; pods with different ones are nothing to each other. Where SELinux is off nothing is.
func SELinuxLabels(f Facts, pod, container *runtimeapi.SELinuxOption, level string) (Labels, error) {
	if f.SELinux == nil {
		return Labels{}, nil
	}
	process, file := parseLabel(f.SELinux.Process), parseLabel(f.SELinux.File)
	user := cmp.Or(container.GetUser(), pod.GetUser())
	process.user = cmp.Or(user, process.user)
	process.role = cmp.Or(container.GetRole(), pod.GetRole(), process.role)
	process.kind = cmp.Or(container.GetType(), pod.GetType(), process.kind)
	process.level = cmp.Or(container.GetLevel(), pod.GetLevel(), level, process.level)
	for field, part := range map[string]string{"user": process.user, "role": process.role, "type": process.kind} {
		if strings.ContainsAny(part, ": \n\x00") {
			return Labels{}, errs.New(errs.InvalidArgument, "linux.security_context.selinux_options.%s: bad %s %q", field, field, part)
		}
	}
	file.user, file.level = cmp.Or(user, file.user), process.level
	labels := Labels{process.String(), file.String()}
	if labels.Process == "" && AsksSELinux(pod, container) {
		return labels, errs.New(errs.FailedPrecondition, "linux.security_context.selinux_options: the node's policy names no label for containers that these could be a change of")
	}
	return labels, nil
}

// AsksSELinux reports whether anything is asked for.
func AsksSELinux(options ...*runtimeapi.SELinuxOption) bool {
	return slices.ContainsFunc(options, func(o *runtimeapi.SELinuxOption) bool {
		return o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() != ""
	})
}

// RunsWithoutLabel reports whether a container's processes get no label of their own: those of privileged ones, whom the policy lets
// become what it thinks right, and, unless something is asked for, those that see the host's processes or talk to them, which a confined
// one could not.
func RunsWithoutLabel(sandbox *runtimeapi.PodSandboxConfig, sc *runtimeapi.LinuxContainerSecurityContext) bool {
	pod := sandbox.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() {
		return true
	}
	host := sc.GetNamespaceOptions().GetPid() == runtimeapi.NamespaceMode_NODE || pod.GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE
	return host && !AsksSELinux(pod.GetSelinuxOptions(), sc.GetSelinuxOptions())
}

// systemTrees are directories of the node that would be lost to it if they were labelled for a container.
var systemTrees = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
	"/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/lib/kubelet", "/var/log", "/var/run",
}

// checkRelabelled refuses mounts that ask for a label on what the node needs (CVE-2021-43816's class).
func checkRelabelled(in Input) error {
	for _, m := range in.Config.GetMounts() {
		if m.GetSelinuxRelabel() && in.SELinux.Mount != "" && slices.Contains(systemTrees, path.Clean(m.GetHostPath())) {
			return errs.New(errs.InvalidArgument, "mounts: %s: selinux_relabel: %s is the node's", m.GetContainerPath(), m.GetHostPath())
		}
	}
	return nil
}
