package native

import "fermata/internal/linux"

// Older kernels and other machines, pretended: every fallback is taken on the one that the tests run on.

// PretendOldOverlay makes the handler take overlay for one that has no "lowerdir+" (below Linux 6.5).
func (h *Handler) PretendOldOverlay() {
	h.appends.Store(appendsNo)
	h.appendsMounts.Store(appendsNo)
}

// PretendUnified makes the handler take the machine for one with cgroup v2 alone.
func (h *Handler) PretendUnified() { h.cgroups = []hierarchy{{"/sys/fs/cgroup", true}} }

// PretendNoProcPIDNS makes the handler take procfs for one without "pidns" (below Linux 6.17).
func (h *Handler) PretendNoProcPIDNS() { h.features.Facilities[facilityProcPIDNS] = false }

// Walk and Locate resolve a path by the two ways there are.
func Walk(root *linux.FD, name string) (string, error) { return walk(root, name) }

func Locate(root *linux.FD, name string) (path string, exists bool, err error) {
	t, err := locate(root, name)
	return t.path, t.exists, err
}
