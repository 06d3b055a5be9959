package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// Image is what an image's configuration says about running it (OCI image-spec config.md).
type Image struct {
	Env, Entrypoint, Cmd         []string
	WorkingDir, User, StopSignal string
	Volumes                      []string // paths of anonymous volumes, in any order
}

// CgroupMode is how the machine mounts control groups.
type CgroupMode string

// The cgroup modes.
const (
	CgroupV1     CgroupMode = "v1"
	CgroupV2     CgroupMode = "v2"
	CgroupHybrid CgroupMode = "hybrid"
)

// Facts is what specs need to know of the machine.
type Facts struct {
	// Capabilities are the daemon's own bounding set, "CAP_…": nobody can be given more, and "all capabilities" means these.
	Capabilities []string
	CgroupMode   CgroupMode
	// Swap says that memory+swap can be limited (v1 memsw, v2 memory.swap.max).
	Swap bool
	// Devices are the host's, for privileged containers.
	Devices []specs.LinuxDevice
	// AppArmor says that it is there and on; SELinux is nil where it is not.
	AppArmor bool
	SELinux  *SELinux
	// OOMScoreAdjMin is the lowest value that can be set: -1000 with CAP_SYS_RESOURCE, else the daemon's own.
	OOMScoreAdjMin int
}

// PodFiles are host paths of what a pod's containers share. An empty path means no such mount.
type PodFiles struct {
	Hostname, Hosts, ResolvConf string
	// Shm is the pod's /dev/shm for handlers that take paths; the native engine has its own way. "" is [PodShm].
	Shm string
	// Namespaces are paths of the pod's namespaces for handlers that take paths; a missing one is [PodNamespace].
	Namespaces map[specs.LinuxNamespaceType]string
}

// Sources and namespaces that are no host paths: the native engine gets them as descriptors, and a handler that takes paths fails on
// them instead of using a wrong one.
const (
	PodNamespace    = "pod:"       // + type: a namespace of the pod
	TargetNamespace = "container:" // + id: a namespace of another container of the pod
	PodShm          = "pod:shm"    // source of /dev/shm
	ImageVolume     = "image:"     // + reference: source of an image volume
	HostShm         = "/dev/shm"   // source of /dev/shm with the host's IPC namespace
)

// Device is a device of ContainerConfig.devices, looked up on the host.
type Device struct {
	specs.LinuxDevice
	Permissions string // of "rwm"; "" is all three
}

// Input is everything a container's spec depends on.
type Input struct {
	ID, SandboxID string
	Sandbox       *runtimeapi.PodSandboxConfig
	Config        *runtimeapi.ContainerConfig
	Image         Image
	Identity      Identity
	Facts         Facts
	Files         PodFiles
	// CgroupsPath is the container's cgroup below the hierarchy, "" for none.
	CgroupsPath string
	// Hostname is the pod's effective host name (the node's with the host's network).
	Hostname string
	// Seccomp is the profile that [SeccompChoice] chose, nil for unconfined.
	Seccomp *specs.LinuxSeccomp
	// AppArmorProfile, chosen; "" for none.
	AppArmorProfile string
	// SELinux are the labels that [SELinuxLabels] chose.
	SELinux Labels
	// Devices are Config.Devices, looked up on the host (links resolved, directories walked).
	Devices []Device
	// Volumes are host directories of the image's anonymous volumes, by the paths that [AnonymousVolumes] gives.
	Volumes map[string]string
}

// Container maps a CRI container onto an OCI runtime spec. Refusals are errs.InvalidArgument and name the field.
func Container(in Input) (*specs.Spec, error) {
	if in.Config == nil || in.Sandbox == nil {
		return nil, errs.New(errs.InvalidArgument, "config and sandbox_config must be set")
	}
	sc := securityContext(in.Config)
	if sc.Privileged && !in.Sandbox.GetLinux().GetSecurityContext().GetPrivileged() {
		return nil, errs.New(errs.InvalidArgument, "linux.security_context.privileged: the pod is not privileged")
	}
	if err := checkRelabelled(in); err != nil {
		return nil, err
	}
	users, err := containerUsers(in, sc)
	if err != nil {
		return nil, err
	}
	process, err := process(in, sc)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(in, sc, users)
	if err != nil {
		return nil, err
	}
	linux, err := linux(in, sc, users)
	if err != nil {
		return nil, err
	}
	return &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Path: "rootfs", Readonly: sc.ReadonlyRootfs},
		Mounts:      mounts,
		Annotations: annotations(in),
		Linux:       linux,
	}, nil
}

// linux is the platform's part of a spec.
func linux(in Input, sc *runtimeapi.LinuxContainerSecurityContext, users *Users) (*specs.Linux, error) {
	namespaces, err := namespaces(in, sc, users)
	if err != nil {
		return nil, err
	}
	resources, err := Resources(in.Config.GetLinux().GetResources(), in.Facts)
	if err != nil {
		return nil, err
	}
	devices, err := devices(in, sc, resources)
	if err != nil {
		return nil, err
	}
	l := &specs.Linux{
		CgroupsPath: in.CgroupsPath,
		Namespaces:  namespaces,
		Resources:   resources,
		Devices:     devices,
		MountLabel:  in.SELinux.Mount,
	}
	l.UIDMappings, l.GIDMappings = users.mappings()
	if propagates(in.Config.GetMounts()) {
		l.RootfsPropagation = "rslave"
	}
	if sc.Privileged {
		return l, nil
	}
	l.Seccomp = in.Seccomp
	if l.MaskedPaths, err = literalPaths("masked_paths", sc.MaskedPaths); err != nil {
		return nil, err
	}
	l.ReadonlyPaths, err = literalPaths("readonly_paths", sc.ReadonlyPaths)
	return l, err
}

// literalPaths are taken as given (CRI MSK-1), but must be absolute to mean anything.
func literalPaths(field string, paths []string) ([]string, error) {
	for _, p := range paths {
		if err := checkPath("linux.security_context."+field, p); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// annotations say to handlers that ask (runsc, kata) what the spec is of. The pod's own annotations never get here: they are not
// interpreted unless a handler's allow-list says so (CVE-2024-3154).
func annotations(in Input) map[string]string {
	return map[string]string{
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    in.Config.GetMetadata().GetName(),
		"io.kubernetes.cri.sandbox-id":        in.SandboxID,
		"io.kubernetes.cri.sandbox-name":      in.Sandbox.GetMetadata().GetName(),
		"io.kubernetes.cri.sandbox-namespace": in.Sandbox.GetMetadata().GetNamespace(),
		"io.kubernetes.cri.sandbox-uid":       in.Sandbox.GetMetadata().GetUid(),
	}
}

// securityContext is never nil.
func securityContext(c *runtimeapi.ContainerConfig) *runtimeapi.LinuxContainerSecurityContext {
	if sc := c.GetLinux().GetSecurityContext(); sc != nil {
		return sc
	}
	return &runtimeapi.LinuxContainerSecurityContext{}
}
