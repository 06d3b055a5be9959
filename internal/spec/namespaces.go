package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// namespaces are those that are not the host's: with a path to join it, without to make one. Network and IPC are the pod's affair,
// whatever the container says; the PID namespace is each container's (CRI NS-1..5).
func namespaces(in Input, sc *runtimeapi.LinuxContainerSecurityContext, users *Users) ([]specs.LinuxNamespace, error) {
	pod, own := in.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions(), sc.GetNamespaceOptions()
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !sc.Privileged {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	join := func(kinds ...specs.LinuxNamespaceType) {
		for _, k := range kinds {
			ns = append(ns, specs.LinuxNamespace{Type: k, Path: in.Files.namespace(k)})
		}
	}
	if users != nil {
		join(specs.UserNamespace)
	}
	if pod.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		join(specs.NetworkNamespace, specs.UTSNamespace)
	}
	if pod.GetIpc() != runtimeapi.NamespaceMode_NODE {
		join(specs.IPCNamespace)
	}
	switch own.GetPid() {
	case runtimeapi.NamespaceMode_NODE:
	case runtimeapi.NamespaceMode_CONTAINER:
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtimeapi.NamespaceMode_TARGET:
		if own.GetTargetId() == "" {
			return nil, errs.New(errs.InvalidArgument, "linux.security_context.namespace_options.target_id must be set with pid TARGET")
		}
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: TargetNamespace + own.GetTargetId()})
	case runtimeapi.NamespaceMode_POD:
		if pod.GetPid() != runtimeapi.NamespaceMode_NODE { // pause has one, also where the pod's own mode is CONTAINER
			join(specs.PIDNamespace)
		}
	default:
		return nil, errs.New(errs.InvalidArgument, "linux.security_context.namespace_options.pid: unknown mode %v", own.GetPid())
	}
	return ns, nil
}

func (f PodFiles) namespace(kind specs.LinuxNamespaceType) string {
	if path := f.Namespaces[kind]; path != "" {
		return path
	}
	return PodNamespace + string(kind)
}
