package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/linux"
)

// hierarchy is a mounted tree of control groups.
type hierarchy struct {
	mountpoint string
	unified    bool // cgroup2
}

func hierarchies() ([]hierarchy, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	var out []hierarchy
	for _, m := range mounts {
		out = append(out, hierarchy{m.Mountpoint, m.FSType == "cgroup2"})
	}
	return out, nil
}

// cgroup attaches the container's view of its control groups. On pure v2 that is a cgroup2 filesystem made inside the container's cgroup
// namespace; on v1, which has a tree a controller, clones of the container's own group in each.
func (r *root) cgroup(m specs.Mount, o options) error {
	if len(r.h.cgroups) == 1 && r.h.cgroups[0].unified {
		return r.attachDir(m, kernel, r.filesystem("cgroup2", o.attributes))
	}
	group := r.c.Spec.Linux.CgroupsPath
	if !path.IsAbs(group) { // none, or one of systemd's: nothing to show
		return nil
	}
	data := append(r.users.options(), linux.Option{Key: "source", Value: "cgroup"}, linux.Option{Key: "mode", Value: "0755"})
	dirs, err := linux.NewMount("tmpfs", o.attributes&^mountAttrReadOnly, labelled(data, r.c.Spec.Linux.MountLabel)...)
	if err != nil {
		return err
	}
	number := r.own(dirs)
	if err := r.attachDir(m, kernel, number); err != nil {
		return err
	}
	for _, h := range r.h.cgroups {
		if err := r.controller(dirs, h, path.Clean(m.Destination), o); err != nil {
			return err
		}
	}
	if o.attributes&mountAttrReadOnly == 0 {
		return nil
	}
	return dirs.SetMountAttr(linux.MountAttr{Set: mountAttrReadOnly})
}

// controller attaches the container's group in one v1 hierarchy, if it has one there.
func (r *root) controller(dirs *linux.FD, h hierarchy, dest string, o options) error {
	group, err := linux.OpenDir(path.Join(h.mountpoint, r.c.Spec.Linux.CgroupsPath))
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer group.Close()
	clone, err := group.CloneMount(false)
	if err != nil {
		return err
	}
	number := r.own(clone)
	if err := clone.SetMountAttr(linux.MountAttr{Set: uint64(o.attributes), Propagation: msPrivate}); err != nil {
		return err
	}
	name := path.Base(h.mountpoint)
	if err := dirs.MakeDirEntry(name, 0o755); err != nil {
		return err
	}
	if err := links(dirs, h.mountpoint, name); err != nil {
		return err
	}
	r.attachKnown(path.Join(dest, name), number)
	return nil
}

// links makes the names by which controllers that share a tree are found (cpu → cpu,cpuacct), as far as the host has them.
func links(dirs *linux.FD, mountpoint, name string) error {
	if !strings.Contains(name, ",") {
		return nil
	}
	for _, c := range strings.Split(name, ",") {
		target, err := os.Readlink(path.Join(path.Dir(mountpoint), c))
		if err != nil || target != name {
			continue
		}
		if err := dirs.SymlinkEntry(name, c); err != nil {
			return err
		}
	}
	return nil
}
