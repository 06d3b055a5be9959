package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Group is one path in every hierarchy of a tree. It is a name: it holds nothing open and the directories may or may not exist. It is safe for
// concurrent use as far as the kernel is.
type Group struct {
	tree *Tree
	rel  string // the path without its leading slash
	err  error  // why the path is no group's; every call reports it
	in   []*hierarchy
	// home is the container's group, which is where the process is in the hierarchies that in leaves out. Nil but for exec groups.
	home *Group
}

// execs is the name of the child group for exec'd processes.
const execs = "exec"

// Group names a group without looking whether it exists. A path that is relative, the root, or leads upwards makes a group whose every call
// fails with InvalidArgument.
func (t *Tree) Group(p string) *Group {
	g := &Group{tree: t, rel: strings.TrimPrefix(p, "/"), in: t.hierarchies}
	clean := path.Clean(p)
	if !strings.HasPrefix(p, "/") || clean == "/" || clean != strings.TrimSuffix(p, "/") || strings.ContainsAny(p, "\x00\n") {
		g.err = errs.New(errs.InvalidArgument, "control group %q: not an absolute, plain path", p)
	}
	g.rel = strings.TrimSuffix(g.rel, "/")
	return g
}

// Path returns the path by which the group was named.
func (g *Group) Path() string { return "/" + g.rel }

// Create makes a group and its missing parents in every hierarchy, and returns it. One that exists is fine. On failure, directories that this
// call made in vain are removed again, parents excepted.
//
// On v2 the controllers fermata uses are handed down from the root to the group. A parent that cannot hand one down (its own processes are in
// the way, or its parent has it not) is no error here: [Group.Apply] names it when a limit needs it. On v1 an empty cpuset takes its parent's
// CPUs and memory nodes, without which no process could join.
func (t *Tree) Create(p string) (*Group, error) {
	g := t.Group(p)
	if g.err != nil {
		return nil, g.err
	}
	var made []*hierarchy
	for _, h := range g.in {
		fresh, err := h.create(g.rel)
		if fresh {
			made = append(made, h)
		}
		if err != nil {
			for _, m := range slices.Backward(made) {
				m.root.RmdirPath(g.rel) // best effort: the error that matters is the first
			}
			return nil, fmt.Errorf("create control group %s: %w", g.Path(), err)
		}
	}
	return g, nil
}

// create makes a group in one hierarchy and says whether it was not there before.
func (h *hierarchy) create(rel string) (fresh bool, err error) {
	err = h.root.MkdirPath(rel, 0o755)
	if errors.Is(err, syscall.ENOENT) {
		if err = h.parents(rel); err == nil {
			err = h.root.MkdirPath(rel, 0o755)
		}
	}
	fresh = err == nil
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return false, err
	}
	switch {
	case h.version == V2:
		err = h.handDown(rel)
	case h.has("cpuset"):
		err = h.inheritCPUs(rel)
	default:
		err = nil
	}
	return fresh, err
}

// parents makes the directories above rel.
func (h *hierarchy) parents(rel string) error {
	for i, c := range rel {
		if c != '/' {
			continue
		}
		if err := h.root.MkdirPath(rel[:i], 0o755); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
	}
	return nil
}

// handDown makes the controllers fermata uses available in rel. The usual case, a parent that already hands them down, costs one read.
func (h *hierarchy) handDown(rel string) error {
	want := slices.DeleteFunc(slices.Clone(used), func(c string) bool { return !h.has(c) })
	has, err := h.read(rel, "cgroup.controllers")
	if err != nil {
		return err
	}
	if len(want) == 0 || subset(want, strings.Fields(has)) {
		return nil
	}
	for at := range ancestors(rel) {
		on, err := h.read(at, "cgroup.subtree_control")
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(slices.Clone(want), func(c string) bool { return slices.Contains(strings.Fields(on), c) })
		if len(missing) == 0 {
			continue
		}
		if err := h.write(at, "cgroup.subtree_control", "+"+strings.Join(missing, " +")); err == nil || errs.Is(err, errs.NotFound) && !h.exists(at) {
			continue
		}
		for _, c := range missing { // one of them cannot be had here: take the others
			h.write(at, "cgroup.subtree_control", "+"+c) // Apply tells which is missing, if it matters
		}
	}
	return nil
}

func (h *hierarchy) exists(rel string) bool {
	f, err := h.open(rel, "cgroup.procs", os.O_RDONLY)
	f.Close()
	return err == nil
}

// ancestors yields the paths above rel, the root ("") first.
func ancestors(rel string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if !yield("") {
			return
		}
		for i, c := range rel {
			if c == '/' && !yield(rel[:i]) {
				return
			}
		}
	}
}

func subset(want, have []string) bool {
	return !slices.ContainsFunc(want, func(c string) bool { return !slices.Contains(have, c) })
}

// inheritCPUs gives a v1 cpuset that has no CPUs or no memory nodes those of its parent, which is given its parent's first. The kernel would
// do so itself if the parent had cgroup.clone_children, which is not ours to set.
func (h *hierarchy) inheritCPUs(rel string) error {
	if rel == "" {
		return nil
	}
	above := path.Dir(rel)
	if above == "." {
		above = ""
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := h.read(rel, file)
		if err != nil {
			return err
		}
		if own != "" {
			continue
		}
		theirs, err := h.read(above, file)
		if err != nil {
			return err
		}
		if theirs == "" {
			if err := h.inheritCPUs(above); err != nil {
				return err
			}
			if theirs, err = h.read(above, file); err != nil {
				return err
			}
		}
		if err := h.write(rel, file, theirs); err != nil {
			return err
		}
	}
	return nil
}

// Execs makes, where it is not there yet, the one child group that holds every process exec'd into the container, and returns it: killed as a
// whole without touching the container's own processes, and part of the container for every limit and figure.
//
// On v2 it is a child that gets no controllers: the container's group hands none down, so both it and the child may hold processes. On v1
// only the freezer's hierarchy has the child (a controller would count it apart otherwise); in the others an exec'd process is in the
// container's own group, see [Group.Join]. It goes when the container's group is removed.
func (g *Group) Execs() (*Group, error) {
	if g.err != nil {
		return nil, g.err
	}
	if g.home != nil {
		return nil, errs.New(errs.InvalidArgument, "control group %s: is for execs already", g.Path())
	}
	child := &Group{tree: g.tree, rel: g.rel + "/" + execs, home: g}
	if h := g.tree.members(); h != nil {
		child.in = append(child.in, h)
	}
	if h := g.tree.unified; h != nil {
		child.in = append(child.in, h)
	}
	for _, h := range child.in {
		if err := h.root.MkdirPath(child.rel, 0o755); err != nil && !errors.Is(err, syscall.EEXIST) {
			return nil, fmt.Errorf("create control group %s: %w", child.Path(), gone(err))
		}
	}
	return child, nil
}

// members returns the v1 hierarchy whose lists of processes are asked: the freezer's, or any if there is none. Nil on pure v2.
func (t *Tree) members() *hierarchy {
	if h := t.with("freezer"); h != nil {
		return h
	}
	if h := t.hierarchies[0]; h.version == V1 {
		return h
	}
	return nil
}

// Join holds what a process needs to be born in a group. Whoever has it closes it.
type Join struct {
	// Dir is the group's directory in the cgroup2 hierarchy, for CLONE_INTO_CGROUP; nil on pure v1.
	Dir *linux.FD
	// Procs are the "tasks" files of the v1 hierarchies, opened for writing: the new process, which must have one thread only, writes "0" to
	// each. Empty on pure v2. Not cgroup.procs: moving a thread that moves itself needs no lock against forks (Linux 5.5); moving a process
	// waits for an RCU grace period, 10 ms on an idle machine.
	Procs []*linux.FD
}

// Close closes the descriptors. Safe on nil.
func (j *Join) Close() error {
	if j == nil {
		return nil
	}
	return linux.CloseAll(append(slices.Clone(j.Procs), j.Dir)...)
}

// Join opens what a process needs to be born in the group; NotFound if it does not exist.
func (g *Group) Join() (_ *Join, err error) {
	if g.err != nil {
		return nil, g.err
	}
	j := &Join{}
	defer func() {
		if err != nil {
			j.Close()
		}
	}()
	for _, h := range g.tree.hierarchies {
		rel := g.place(h)
		if h.version == V2 {
			// Not O_PATH: clone3(2) takes both, the keeper may want to read.
			j.Dir, err = h.open(rel, ".", os.O_RDONLY|syscall.O_DIRECTORY)
		} else {
			var f *linux.FD
			if f, err = h.open(rel, "tasks", os.O_WRONLY); err == nil {
				j.Procs = append(j.Procs, f)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("join control group %s: %w", g.Path(), err)
		}
	}
	return j, nil
}

// place returns the path a process of the group has in a hierarchy.
func (g *Group) place(h *hierarchy) string {
	if g.home != nil && !slices.Contains(g.in, h) {
		return g.home.rel
	}
	return g.rel
}

// OOM opens the file in which the kernel counts the processes it ended for want of memory, as a line "oom_kill N": memory.events (v2) or
// memory.oom_control (v1, Linux 4.13). Unimplemented without a memory controller.
func (g *Group) OOM() (*linux.FD, error) {
	if g.err != nil {
		return nil, g.err
	}
	h := g.tree.with("memory")
	if h == nil {
		return nil, errs.New(errs.Unimplemented, "watch memory of control group %s: this machine has no memory controller", g.Path())
	}
	rel := g.rel
	if g.home != nil { // no controller counts the child apart
		rel = g.home.rel
	}
	return h.open(rel, oomFile(h.version), os.O_RDONLY)
}

func oomFile(version Mode) string {
	if version == V2 {
		return "memory.events"
	}
	return "memory.oom_control"
}

// OOMKills returns how many of the group's processes the kernel has ended for want of memory; see [Group.OOM].
func (g *Group) OOMKills() (uint64, error) {
	f, err := g.OOM()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := f.ReadAll(4096)
	if err != nil {
		return 0, gone(err)
	}
	return flat(string(b))["oom_kill"], nil
}
