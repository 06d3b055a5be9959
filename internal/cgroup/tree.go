package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Mode says which versions of control groups are mounted.
type Mode uint8

// The modes. Hybrid is v1 with a v2 hierarchy beside it, which may own controllers or none.
const (
	V1 Mode = iota + 1
	V2
	Hybrid
)

// String returns "v1", "v2" or "hybrid".
func (m Mode) String() string {
	switch m {
	case V1:
		return "v1"
	case V2:
		return "v2"
	case Hybrid:
		return "hybrid"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Tree is the set of mounted hierarchies. It is safe for concurrent use; whoever opened it closes it after its last group.
type Tree struct {
	mode        Mode
	hierarchies []*hierarchy // the cgroup2 one last
	unified     *hierarchy   // the cgroup2 one; nil on pure v1
}

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	version     Mode // V1 or V2
	root        *linux.FD
	controllers []string // kernel's names ("memory", "blkio" or "io"), or one "name=…" of a v1 hierarchy without controllers
}

func (h *hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// used are the controllers a v2 hierarchy hands down to groups; the others (rdma, misc, …) only where a parent already does.
var used = []string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}

// Open finds what is mounted on this machine. It fails with FailedPrecondition if nothing is.
func Open() (*Tree, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	return open(parseMounts(string(mountinfo)), true)
}

// OpenAt opens a tree whose hierarchies are below a directory as they are below /sys/fs/cgroup: the directory itself if it has cgroup.controllers
// (v2), otherwise each directory in it, named by its controllers ("cpu,cpuacct", "systemd"; v2 if it has cgroup.controllers). It does not ask
// whether these are control groups, so that tests may bring directories of their own.
func OpenAt(root string) (*Tree, error) {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return open([]mount{{path: root, version: V2}}, false)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	var mounts []mount
	for _, e := range entries {
		if !e.IsDir() { // links lead to hierarchies with several controllers
			continue
		}
		m := mount{path: filepath.Join(root, e.Name()), version: V1}
		if _, err := os.Stat(filepath.Join(m.path, "cgroup.controllers")); err == nil {
			m.version = V2
		} else if e.Name() == "systemd" {
			m.controllers = []string{"name=systemd"}
		} else {
			m.controllers = strings.Split(e.Name(), ",")
		}
		mounts = append(mounts, m)
	}
	return open(mounts, false)
}

func open(mounts []mount, check bool) (_ *Tree, err error) {
	t := &Tree{}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	slices.SortStableFunc(mounts, func(a, b mount) int { return int(a.version) - int(b.version) })
	for _, m := range mounts {
		h := &hierarchy{version: m.version, controllers: m.controllers}
		if t.twice(h) {
			continue
		}
		if h.root, err = linux.OpenDir(m.path); err != nil {
			return nil, err
		}
		t.hierarchies = append(t.hierarchies, h)
		if err := h.prepare(check); err != nil {
			return nil, err
		}
		if h.version == V2 {
			t.unified = h
		}
	}
	switch {
	case len(t.hierarchies) == 0:
		return nil, errs.New(errs.FailedPrecondition, "find control groups: none are mounted; mount cgroup2 on /sys/fs/cgroup")
	case t.unified == nil:
		t.mode = V1
	case len(t.hierarchies) == 1:
		t.mode = V2
	default:
		t.mode = Hybrid
	}
	return t, nil
}

// twice reports whether a hierarchy is already in the tree: the same one may be mounted in several places.
func (t *Tree) twice(h *hierarchy) bool {
	return slices.ContainsFunc(t.hierarchies, func(o *hierarchy) bool {
		return o.version == h.version && (h.version == V2 || slices.Equal(o.controllers, h.controllers))
	})
}

// prepare makes sure of the file system and, on v2, asks for the controllers.
func (h *hierarchy) prepare(check bool) error {
	if check {
		want := int64(linux.CgroupMagic)
		if h.version == V2 {
			want = linux.Cgroup2Magic
		}
		if magic, err := h.root.FilesystemMagic(); err != nil {
			return err
		} else if magic != want {
			return errs.New(errs.FailedPrecondition, "open control groups at %s: something else is mounted over them (file system %#x)", h.root.Name(), magic)
		}
	}
	if h.version == V2 {
		list, err := h.read("", "cgroup.controllers")
		if err != nil {
			return err
		}
		h.controllers = strings.Fields(list)
	}
	return nil
}

// Close closes the descriptors of the hierarchies. Groups of the tree are unusable after it.
func (t *Tree) Close() error {
	var all []error
	for _, h := range t.hierarchies {
		all = append(all, h.root.Close())
	}
	return errors.Join(all...)
}

// Mode says which versions are mounted.
func (t *Tree) Mode() Mode { return t.mode }

// Controllers lists the controllers of all hierarchies, sorted, by the kernel's names: "blkio" on v1 is "io" on v2.
func (t *Tree) Controllers() []string {
	var all []string
	for _, h := range t.hierarchies {
		for _, c := range h.controllers {
			if !strings.HasPrefix(c, "name=") {
				all = append(all, c)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Missing lists the controllers without which limits or figures that Kubernetes relies on do not work, sorted. On v2 device access, freezing and
// CPU accounting are part of the core.
func (t *Tree) Missing() []string {
	want := []string{"cpu", "cpuset", "memory", "pids"}
	if t.mode != V2 {
		want = append(want, "cpuacct", "devices", "freezer")
	}
	have := t.Controllers()
	want = slices.DeleteFunc(want, func(c string) bool { return slices.Contains(have, c) })
	slices.Sort(want)
	return want
}

// with returns the hierarchy that has a controller, nil if none has.
func (t *Tree) with(controller string) *hierarchy {
	for _, h := range t.hierarchies {
		if h.has(controller) {
			return h
		}
	}
	return nil
}
