package cgroup

import "fermata/internal/errs"

// Swap reports whether memory and swap together can be limited: on v1 the root has the file (swapaccount), on v2 every group but the root has
// that the memory controller is handed down to. Where no group tells, the kernel's default since 5.8 is taken, which is yes.
func (t *Tree) Swap() bool {
	h := t.with("memory")
	if h == nil {
		return false
	}
	if h.version == V1 {
		_, err := h.read("", "memory.memsw.limit_in_bytes")
		return err == nil
	}
	children, err := h.children("")
	if err != nil {
		return true
	}
	for _, c := range children {
		if _, err := h.read(c, "memory.max"); err != nil { // the controller is not handed down
			continue
		}
		_, err := h.read(c, "memory.swap.max")
		return !errs.Is(err, errs.NotFound)
	}
	return true
}
