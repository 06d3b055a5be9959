package native

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"fermata/internal/engine"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

// Options configure a handler.
type Options struct {
	// Stage has the pause executable. nil: the handler makes and owns its own.
	Stage *launch.Files
	// Skeleton is a directory of the handler's own, made if it is missing, on an ordinary filesystem that outlives plans: the bottom layer of
	// every container's rootfs, with the places that each needs for mounts. Without it ("") they are made in each container's upper
	// directory: some 0.3 ms and a copy of /etc's metadata.
	Skeleton string
	// FileLabel is the SELinux label of files that any container may see, "" where SELinux is off.
	FileLabel string
}

// Handler is the native engine. Make one with [New], close it at the end; plans outlive it.
type Handler struct {
	nursery  *linux.FD // the node's: a mount namespace with one small tmpfs, see nursery.go
	procfs   *linux.FD // a procfs of the host's PID namespace that nobody can cover, attached nowhere (R3)
	stage    *launch.Files
	ownStage bool
	lastCap  int
	skeleton string
	label    string // SELinux's for files that any container may see
	cgroups  []hierarchy
	features engine.Features
	// appends says whether overlay takes layers one by one ("lowerdir+", Linux 6.5): 0 not known yet, 1 yes, 2 no.
	// appendsMounts says the same of layers that are idmapped mounts, given by descriptor (Linux 6.15).
	appends, appendsMounts atomic.Int32
	noUsers                error     // why there are no user namespaces, nil if there are
	revealing              *linux.FD // the nursery in which pause of a pod with a user namespace begins, nil without
}

var _ engine.Handler = (*Handler)(nil)

// New makes the node's nursery and finds out by trying what this kernel can do.
func New(o Options) (_ *Handler, err error) {
	h := &Handler{stage: o.Stage}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if h.stage == nil {
		h.ownStage = true
		if h.stage, err = launch.NewStage(o.FileLabel); err != nil {
			return nil, err
		}
	}
	if h.lastCap, err = linux.LastCapability(); err != nil {
		return nil, err
	}
	if h.procfs, err = linux.NewMount("proc", mountAttrNoSuid|mountAttrNoDev|mountAttrNoExec); err != nil {
		return nil, err
	}
	if h.cgroups, err = hierarchies(); err != nil {
		return nil, err
	}
	if h.nursery, err = newNursery(o.FileLabel); err != nil {
		return nil, err
	}
	h.label = o.FileLabel
	if h.skeleton = o.Skeleton; h.skeleton != "" {
		if err := makeSkeleton(h.skeleton); err != nil {
			return nil, err
		}
	}
	if h.noUsers = h.probeUsers(); h.noUsers == nil {
		h.revealing, h.noUsers = newRevealingNursery(o.FileLabel)
	}
	h.features = engine.Features{
		RecursiveReadOnlyMounts: true, // mount_setattr(2), Linux 5.12: below the floor of this handler
		UserNamespaces:          h.noUsers == nil,
		Facilities:              map[string]bool{facilityProcPIDNS: h.probeProcPIDNS(), facilityUsers: h.noUsers == nil},
	}
	return h, nil
}

// Close lets go of the node's nursery; running pods keep theirs.
func (h *Handler) Close() error {
	var stage error
	if h.ownStage && h.stage != nil {
		stage = h.stage.Close()
	}
	return errors.Join(linux.CloseAll(h.nursery, h.revealing, h.procfs), stage)
}

// Stage returns the executables that launches of this handler's plans start from. They stay the handler's.
func (h *Handler) Stage() *launch.Files { return h.stage }

// Features implements [engine.Handler].
func (h *Handler) Features() engine.Features { return h.features }

// assembly is a plan being made: a program and the descriptors that it counts on. Mistakes in the program are remembered by its builder.
type assembly struct {
	*launch.Builder
	h     *Handler
	files []*linux.FD // owned; become FirstFD…
	plan  engine.Plan
	// how are the two forms of open_how used all over: a location in the root, without and with symbolic links on the way.
	noLinks, inRoot, inRootDir launch.Address
	command                    string // argv[0], for Explain
}

func (h *Handler) assemble() *assembly {
	a := &assembly{Builder: launch.NewBuilder(launch.Native()), h: h}
	a.noLinks = a.OpenHow(oPath, 0, resolveInRoot|resolveNoMagiclinks|resolveNoSymlinks)
	a.inRoot = a.OpenHow(oPath, 0, resolveInRoot|resolveNoMagiclinks)
	a.inRootDir = a.OpenHow(oPath|oDirectory, 0, resolveInRoot|resolveNoMagiclinks)
	return a
}

// own passes a descriptor to the process and returns its number there; the plan owns f from then on.
func (a *assembly) own(f *linux.FD) int {
	a.files = append(a.files, f)
	return launch.FirstFD + len(a.files) - 1
}

// lend passes a duplicate of a descriptor that stays the caller's.
func (a *assembly) lend(f *linux.FD) (int, error) {
	d, err := f.Dup()
	if err != nil {
		return -1, err
	}
	return a.own(d), nil
}

// finish turns the assembly into a plan.
func (a *assembly) finish() (*engine.Plan, error) {
	p, err := a.Program()
	if err != nil {
		return nil, err
	}
	plan := a.plan
	plan.Program, plan.Files, plan.Explain = p, a.files, explain(p, a.command)
	return &plan, nil
}

// abandon closes what a failed assembly owns.
func (a *assembly) abandon() {
	linux.CloseAll(append(slices.Clone(a.files), a.plan.Stdin, a.plan.Stdout, a.plan.Stderr, a.plan.Console)...)
}

// done ends an assembly made with a deferred call: the plan on success, everything closed on failure.
func (a *assembly) done(err error) (*engine.Plan, error) {
	if err == nil {
		var plan *engine.Plan
		if plan, err = a.finish(); err == nil {
			return plan, nil
		}
	}
	a.abandon()
	return nil, err
}

// canceled spares work for a caller who left.
func canceled(ctx context.Context) error { return context.Cause(ctx) }
