// Package engine turns an OCI runtime spec and file descriptors into a plan: everything the keeper needs to bring one process to life.
//
// # Vocabulary
//
// A [Handler] is one way to run pods: package native compiles launch programs, package ocicli (later) drives runc and the like. A
// [Plan] is what a handler answers with: the program the stage performs, the descriptors it refers to, and how to clone. Nothing runs
// while a plan is made, and dropping one ([Plan.Close]) leaves nothing behind: rootfs and volumes are detached mounts that the kernel
// removes with their last descriptor.
//
// # Scenario
//
//	plan, err := handler.Sandbox(ctx, &engine.Sandbox{...})   // pause: the pod's namespaces
//	… the daemon sends plan to the keeper, which answers with a pidfd and holds the namespaces …
//	plan, err = handler.Container(ctx, &engine.Container{...}) // a process in them, on a rootfs of its own
//	… launched; a failure comes back as op and errno …
//	err = plan.Failure(op, errno)                               // `exec "x": executable file not found in $PATH`
//	plan.Close()
//
// What belongs elsewhere: what the CRI means (package spec), who holds the running process (package keeper), when things happen
// (package pod).
package engine

import (
	"context"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/cgroup"
	"fermata/internal/launch"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// Handler makes plans: one implementation a runtime handler. Its methods change nothing outside of what the plan owns, but for
// host directories that a mount names and that do not exist (CRI: MNT-2), which they make. They are safe for concurrent use.
type Handler interface {
	Features() Features
	// Sandbox plans a pod's pause process, which makes and holds the pod's namespaces.
	Sandbox(ctx context.Context, s *Sandbox) (*Plan, error)
	// Container plans a container's first process.
	Container(ctx context.Context, c *Container) (*Plan, error)
	// Exec plans one more process in a running container.
	Exec(ctx context.Context, e *Exec) (*Plan, error)
}

// Features is what a handler can do on this machine, found by trying.
type Features struct {
	RecursiveReadOnlyMounts bool // CRI RuntimeHandlerFeatures.recursive_read_only_mounts
	UserNamespaces          bool // CRI RuntimeHandlerFeatures.user_namespaces, also with the host's network
	// Facilities names each kernel facility probed and whether it is there, for Status and doctor.
	Facilities map[string]bool
}

// Plan is one process about to be launched. Whoever gets it closes it, after the launch or instead of it.
type Plan struct {
	Program *launch.Program
	// Files become descriptors launch.FirstFD… of the process, in order. Owned.
	Files []*linux.FD
	// CloneFlags are namespaces to clone into (linux.CloneNew*).
	CloneFlags uint64
	// Cgroup is the cgroup2 directory to be born in, nil for none. Borrowed from the request's Join.
	Cgroup *linux.FD
	// Stdin, Stdout, Stderr are given descriptors 0-2; nil where the keeper makes them (FIFO or /dev/null). Owned.
	Stdin, Stdout, Stderr *linux.FD
	// Console is the master side of the terminal, nil without one. Owned.
	Console *linux.FD
	// Explain gives a failed operation its meaning for the user; nil: the program's own words.
	Explain func(op int, errno syscall.Errno) error
}

// Failure says why the operation op of the program failed, in the words of a user: `exec "x": executable file not found in $PATH`.
// The errno is askable by errors.Is.
func (p *Plan) Failure(op int, errno syscall.Errno) error {
	if p.Explain != nil {
		if err := p.Explain(op, errno); err != nil {
			return err
		}
	}
	return p.Program.Failure(op, errno)
}

// Close closes everything the plan owns; with it go the mounts that nobody attached.
func (p *Plan) Close() error {
	if p == nil {
		return nil
	}
	return linux.CloseAll(append(p.Files, p.Stdin, p.Stdout, p.Stderr, p.Console)...)
}

// Namespaces are a pod's, by descriptor (namespace files, not pidfds). They stay the caller's.
type Namespaces struct {
	Net, IPC, UTS, PID *linux.FD // nil: the host's; PID nil also for a namespace of the container's own, see the spec
	Mount              *linux.FD // the pod's nursery: pause's mount namespace
	User               *linux.FD // nil: the host's. The owner of all the others
}

// Sandbox asks for a pod's pause process.
type Sandbox struct {
	ID       string
	Hostname string // "" leaves the host's name
	// HostNetwork (with the host's UTS namespace), HostIPC, HostPID: the host's namespace instead of one of the pod's.
	HostNetwork, HostIPC, HostPID bool
	// SharedPID says that the pod's containers are to share one PID namespace, of which pause is PID 1. The native engine gives every
	// pause one (unless HostPID) that containers can join.
	SharedPID bool
	// Sysctls are set in the pod's namespaces, by name with dots; spec.CheckSysctls has allowed them.
	Sysctls map[string]string
	Join    *cgroup.Join // nil: stay in the launcher's cgroup
	// UID and GID of pause, in the pod's numbering.
	UID, GID uint32
	// Users gives the pod a user namespace, the owner of all its others; nil: the host's. It goes with neither HostIPC nor HostPID.
	Users *spec.Users
	// ShmSize is the size of the pod's /dev/shm in bytes, 0 for 64 MiB.
	ShmSize int64
	// Labels are SELinux's of pause and of the pod's /dev/shm.
	Labels spec.Labels
	// Held are the namespaces that an earlier pause of the pod made and that outlived it: they are entered, not made. nil makes them. PID is not looked at:
	// that namespace ended with its first process. Borrowed.
	Held *Namespaces
	// OOMScoreAdj of pause; lowering it is tried and not insisted on (CAP_SYS_RESOURCE may be missing).
	OOMScoreAdj int
}

// Rootfs is a stack of directories to be one root.
type Rootfs struct {
	Lower       []string // topmost first
	Upper, Work string   // existing empty directories of one filesystem; "" with Lower only: read-only
	ReadOnly    bool     // the container sees it read-only
	Volatile    bool     // no sync of the upper directory on unmount (overlay "volatile", Linux 5.10)
	Label       string   // SELinux label of all files in it, "" for their own
}

// Container asks for a container's first process.
type Container struct {
	ID         string
	Spec       *specs.Spec
	Rootfs     Rootfs
	Namespaces Namespaces
	// TargetPID is the PID namespace of the container that this one is to debug (CRI TARGET), nil for none.
	TargetPID *linux.FD
	Join      *cgroup.Join
	// Sources are detached mounts for spec mounts, by destination, instead of their source path (image volumes). Borrowed.
	Sources map[string]*linux.FD
	// Relabel are the destinations of mounts whose source gets the spec's mount label, with everything in it (CRI MNT-8).
	Relabel map[string]bool
}

// Exec asks for one more process in a container.
type Exec struct {
	Spec    *specs.Spec    // the container's, as it was started
	Process *specs.Process // what to run, from spec.Process
	Init    *linux.FD      // pidfd of the container's first process. Borrowed.
	Join    *cgroup.Join
}
