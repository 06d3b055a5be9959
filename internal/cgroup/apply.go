package cgroup

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"fermata/internal/errs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Apply sets the group's limits and device rules. What r leaves out (nil, 0, empty) stays as it is; nil changes nothing.
//
// A value that the kernel or the conversion refuses is InvalidArgument, a limit that present use forbids (EBUSY) FailedPrecondition, a missing
// controller Unimplemented. Values are written one after the other in an order in which each is legal whether limits rise or fall; on an
// error some are written and some not: apply the old resources to go back.
func (g *Group) Apply(r *specs.LinuxResources) error {
	if g.err != nil || r == nil {
		return g.err
	}
	if g.home != nil {
		return errs.New(errs.InvalidArgument, "limit control group %s: execs share their container's limits", g.Path())
	}
	todo, err := settings(r, g.tree.version)
	if err != nil {
		return fmt.Errorf("limit control group %s: %w", g.Path(), err)
	}
	rules, err := normalize(r.Devices)
	if err != nil {
		return fmt.Errorf("limit control group %s: %w", g.Path(), err)
	}
	if r.Memory != nil && r.Memory.CheckBeforeUpdate != nil && *r.Memory.CheckBeforeUpdate {
		if err := g.fits(value(r.Memory.Limit)); err != nil {
			return err
		}
	}
	for i := 0; i < len(todo); i++ {
		err := g.write(todo[i])
		// On v1 each of these pairs is bounded by the other's present value: memory ≤ memory with swap; quota per period ≤ the parent's, and
		// a group's own children's. When the first is refused, it is legal after the second.
		if errors.Is(err, syscall.EINVAL) && i+1 < len(todo) && coupled[todo[i].file] == todo[i+1].file {
			if err = g.write(todo[i+1]); err == nil {
				err = g.write(todo[i])
			}
			i++
		}
		if err != nil {
			return err
		}
	}
	if rules != nil {
		if err := g.applyDevices(rules); err != nil {
			return fmt.Errorf("limit devices of control group %s: %w", g.Path(), err)
		}
	}
	return nil
}

var coupled = map[string]string{
	"memory.limit_in_bytes": "memory.memsw.limit_in_bytes",
	"cpu.cfs_period_us":     "cpu.cfs_quota_us",
}

// version returns which version drives a controller, 0 if none does.
func (t *Tree) version(controller string) Mode {
	if h := t.with(controller); h != nil {
		return h.version
	}
	return 0
}

// write writes one setting.
func (g *Group) write(s setting) error {
	h := g.tree.with(s.controller)
	if s.controller == "cgroup" {
		h = g.tree.unified
	}
	if h == nil {
		if s.optional {
			return nil
		}
		return errs.New(errs.Unimplemented, "set %s of control group %s: this machine has no %s controller", s.file, g.Path(), s.controller)
	}
	value := s.value
	if rest, ok := strings.CutPrefix(value, keep+" "); ok {
		now, err := h.read(g.rel, s.file)
		if err != nil {
			return g.explain(h, s, err)
		}
		now, _, _ = strings.Cut(now, " ")
		value = now + " " + rest
	}
	return g.explain(h, s, h.write(g.rel, s.file, value))
}

// explain gives a failed write its kind and says what is the matter.
func (g *Group) explain(h *hierarchy, s setting, err error) error {
	what := fmt.Sprintf("set %s of control group %s to %q", s.file, g.Path(), s.value)
	switch {
	case err == nil:
		return nil
	case errs.Is(err, errs.NotFound):
		if !h.exists(g.rel) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if errors.Is(err, syscall.ENODEV) { // the group is there: it is the value that names a device that is not
			return errs.New(errs.InvalidArgument, "%s: %w", what, err)
		}
		if s.optional {
			return nil
		}
		if h.version == V2 {
			if on, e := h.read(g.rel, "cgroup.controllers"); e == nil && !subset([]string{s.controller}, strings.Fields(on)) {
				return errs.New(errs.FailedPrecondition, "%s: a parent does not hand controller %s down (processes of its own in the way?): %w",
					what, s.controller, err)
			}
		}
		return errs.New(errs.Unimplemented, "%s: this kernel has no such limit: %w", what, err)
	case errors.Is(err, syscall.EBUSY):
		return errs.New(errs.FailedPrecondition, "%s: in use: %w", what, err)
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ERANGE), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOSPC),
		errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.E2BIG), errors.Is(err, syscall.EOVERFLOW):
		return errs.New(errs.InvalidArgument, "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// fits refuses a memory limit below what is in use (OCI checkBeforeUpdate).
func (g *Group) fits(limit int64) error {
	h := g.tree.with("memory")
	if h == nil || limit <= 0 {
		return nil
	}
	file := "memory.usage_in_bytes"
	if h.version == V2 {
		file = "memory.current"
	}
	text, err := h.read(g.rel, file)
	if err != nil {
		return fmt.Errorf("limit control group %s: %w", g.Path(), err)
	}
	used, err := number(text)
	if err != nil {
		return fmt.Errorf("limit control group %s: %w", g.Path(), err)
	}
	if used > uint64(limit) {
		return errs.New(errs.FailedPrecondition, "limit control group %s: memory limit %d is below the %d bytes in use", g.Path(), limit, used)
	}
	return nil
}

// KillTogether makes the kernel end all of the group's processes, or only one, when the group is out of memory (memory.oom.group, Linux 4.19).
// v1 cannot and does nothing. The kubelet asks for the same by a unified resource where it knows of it.
func (g *Group) KillTogether(on bool) error {
	if g.err != nil || g.tree.version("memory") != V2 {
		return g.err
	}
	value := "0"
	if on {
		value = "1"
	}
	return g.write(setting{controller: "memory", file: "memory.oom.group", value: value})
}
