// Package pod is the domain: pods and containers, their life cycles, and the pipelines that move them.
//
// A [Manager] knows every pod of the node. Each call of the runtime interface is one method; each that changes something is a
// pipeline that reads as a list of named stages with their undoing beside them (package undo), recorded as [Stage] so that a
// person can see where the time went and where it stopped.
//
// Promises: listing and status never wait for anything slow; the same request again joins the first or gets its result; a caller that
// gives up changes nothing for the others; what is on disk is enough to go on after the daemon's death at any instruction.
//
// Elsewhere: how a process is launched (engine, keeper), what an image is (image), how a pod gets its address (network), what a
// record looks like on disk (durable). Those are declared here as interfaces, as small as this package needs them, and wired by
// package daemon.
package pod

import (
	"context"
	"net/netip"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/cgroup"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// Images is the node's store of images, as far as a pod needs it.
//
// Life cycle: Resolve names an image; Hold keeps its layers for a user (a container's ID) whatever happens to its names; Release
// gives them up. After a restart every user is held again before anything may be removed.
type Images interface {
	Resolve(ref string) (*Image, error)
	Hold(imageID, user string) error
	Release(user string) error
}

// Image is what a container is made from.
type Image struct {
	// ID is "sha256:" and the digest of the configuration, PullImage's image_ref.
	ID string
	// Name is a name people know it by: its first tag, or what was asked for.
	Name string
	// Ref is the first repository digest, or ID where there is none.
	Ref string
	// Lowers are the overlay's lower directories, topmost first.
	Lowers []string
	Config spec.Image
}

// Network attaches a sandbox's network namespace to the node's pod network.
type Network interface {
	// Attach returns the pod's addresses, primary first. Attaching the same sandbox again gives the same addresses.
	Attach(ctx context.Context, sandboxID string, config *runtimeapi.PodSandboxConfig) ([]netip.Addr, error)
	// Detach frees all of it; an unknown sandbox is fine.
	Detach(ctx context.Context, sandboxID string) error
}

// Runtime starts processes: the handler's plan, carried out by the keeper.
type Runtime interface {
	StartSandbox(ctx context.Context, s *SandboxStart) (*Process, error)
	StartContainer(ctx context.Context, c *ContainerStart) (*Process, error)
	Exec(ctx context.Context, e *ExecStart) (*Process, error)
	// UserFiles reads /etc/passwd and /etc/group of an image; nil where it has none.
	UserFiles(ctx context.Context, img *Image) (passwd, group []byte, err error)
	// Devices describes a device node of the host, following links; a directory gives every device below it.
	Devices(hostPath string) ([]specs.LinuxDevice, error)
}

// Supervisor holds running processes (the keeper). Exits come to [Manager.Exited].
type Supervisor interface {
	Signal(ctx context.Context, id string, sig syscall.Signal) error
	ReopenLog(ctx context.Context, id string, dir *linux.FD, base string) error
	Processes(ctx context.Context) ([]Running, error)
	Pidfd(ctx context.Context, id string) (*linux.FD, error)
	// Forget drops what is kept of an ended process; unknown is fine.
	Forget(ctx context.Context, id string) error
}

// Records keeps pods and containers on disk, each readable alone.
type Records interface {
	WritePod(r *PodRecord) error
	WriteContainer(r *ContainerRecord, s *specs.Spec) error
	// Load reads everything. A record that cannot be read is set aside and named in broken; the others go on.
	Load() (pods []StoredPod, broken []error, err error)
	ReadSpec(podID, containerID string) (*specs.Spec, error)
}

// StoredPod is a pod as found on disk.
type StoredPod struct {
	Pod        *PodRecord
	Containers []*ContainerRecord
}

// Process is a process just started.
type Process struct {
	PID int
	// Inode is the pidfd's inode on pidfs, unique while the machine is up; 0 before Linux 6.9.
	Inode   uint64
	Started time.Time
	// Pidfd is owned by whoever asked for the start.
	Pidfd *linux.FD
	// Console is the master side of an exec's terminal, owned likewise; nil without one.
	Console *linux.FD
}

// Running is a process the supervisor holds, or one that ended and was not forgotten yet.
type Running struct {
	ID      string
	PID     int
	Inode   uint64
	Started time.Time
	Exit    *Exit
}

// Exit is how a process ended.
type Exit struct {
	// ID is the sandbox's (its pause), the container's, or "container/exec".
	ID string `json:"-"`
	// PID is the process's, 0 if unknown.
	PID int `json:"-"`
	// Code is the exit status, or 128 plus the signal.
	Code      int            `json:"code"`
	Signal    syscall.Signal `json:"signal,omitempty"`
	OOMKilled bool           `json:"oomKilled,omitempty"`
	Started   time.Time      `json:"-"`
	Finished  time.Time      `json:"finished"`
	// Unknown says that nobody saw how it ended: Code is 255.
	Unknown bool `json:"unknown,omitempty"`
	// Note says, for readers, why that is, or what else is odd about the end.
	Note string `json:"-"`
}

// SandboxStart asks for a pause process and the namespaces it holds.
type SandboxStart struct {
	ID       string
	Config   *runtimeapi.PodSandboxConfig
	Hostname string
	Cgroup   *cgroup.Group
	// Labels are SELinux's of pause and of the pod's shared memory.
	Labels spec.Labels
	// Again says that a pause of the pod has ended: another goes into its namespaces, which are held.
	Again bool
}

// ContainerStart asks for a container's first process.
type ContainerStart struct {
	ID, SandboxID string
	Config        *runtimeapi.ContainerConfig
	Sandbox       *runtimeapi.PodSandboxConfig
	Spec          *specs.Spec
	Lowers        []string
	// Dir is where upper and work live.
	Dir    string
	Cgroup *cgroup.Group
	// Volumes are image volumes by path in the container; they stay the caller's.
	Volumes map[string]*linux.FD
	// Relabel are the paths in the container of mounts whose source gets the container's SELinux label (MNT-8).
	Relabel map[string]bool
	// TargetID is the container whose PID namespace is joined, "" for none.
	TargetID string
	// LogDir and LogBase name the log file; nil discards the output.
	LogDir  *linux.FD
	LogBase string
}

// ExecStart asks for one more process in a running container.
type ExecStart struct {
	// ID is "container/exec".
	ID      string
	Spec    *specs.Spec
	Process *specs.Process
	Init    *linux.FD
	Cgroup  *cgroup.Group
	// Stdin, Stdout and Stderr are null devices where nil; with a terminal all are its.
	Stdin, Stdout, Stderr *linux.FD
}
