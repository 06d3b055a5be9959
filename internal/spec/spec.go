package spec

import (
	"slices"

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
	// Capabilities are the daemon's own bounding set, "CAP_…": "all capabilities" means these.
	Capabilities []string
	CgroupMode   CgroupMode
	// Swap says that memory+swap can be limited (v1 memsw, v2 memory.swap.max).
	Swap bool
	// Devices are the host's, for privileged containers.
	Devices []specs.LinuxDevice
	// AppArmor and SELinux say that the module is there and on.
	AppArmor, SELinux bool
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
	Permissions string // of "rwm"
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
	// Seccomp is the profile chosen by [SeccompChoice], nil for unconfined.
	Seccomp *specs.LinuxSeccomp
	// AppArmorProfile and SELinux labels, chosen; "" for none.
	AppArmorProfile                   string
	SELinuxProcessLabel, SELinuxMount string
	// Devices are Config.Devices, looked up on the host (links resolved, directories walked).
	Devices []Device
}

// Container maps a CRI container onto an OCI runtime spec. Refusals are errs.InvalidArgument and name the field.
func Container(in Input) (*specs.Spec, error) {
	if in.Config == nil || in.Sandbox == nil {
		return nil, errs.New(errs.InvalidArgument, "make spec of container %s: config and sandbox_config must be set", in.ID)
	}
	return nil, errs.New(errs.Unimplemented, "make spec")
}

// securityContext is never nil.
func securityContext(c *runtimeapi.ContainerConfig) *runtimeapi.LinuxContainerSecurityContext {
	if sc := c.GetLinux().GetSecurityContext(); sc != nil {
		return sc
	}
	return &runtimeapi.LinuxContainerSecurityContext{}
}

// Process returns the process of an exec: cmd with everything else as the container's own (CRI EXS-4).
func Process(container *specs.Spec, cmd []string, tty bool) *specs.Process {
	p := *container.Process
	p.Args = slices.Clone(cmd)
	p.Terminal = tty
	p.ConsoleSize = nil
	return &p
}
