package cgroup

import (
	"os"
	"path"
)

// Swap reports whether memory and swap together can be limited: on v1 the root has the file (swapaccount), on v2 every group but the root has, so
// one of the memory hierarchy's children is looked at; without any, the kernel's default since 5.8 is taken, which is yes.
func (t *Tree) Swap() bool {
	h := t.with("memory")
	if h == nil {
		return false
	}
	if h.version == V1 {
		_, err := h.read("", "memory.memsw.limit_in_bytes")
		return err == nil
	}
	dir, err := h.root.OpenBeneath(".", os.O_RDONLY, 0)
	if err != nil {
		return true
	}
	f := dir.File()
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return true
	}
	for _, e := range entries {
		if e.IsDir() {
			_, err := h.read(path.Base(e.Name()), "memory.swap.max")
			return err == nil
		}
	}
	return true
}
