package cgroup

import (
	"os"
	"slices"
)

// OpenOnly opens the machine's hierarchies of one version, as if the others were not mounted.
func OpenOnly(version Mode) (*Tree, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return open(slices.DeleteFunc(parseMounts(string(b)), func(m mount) bool { return m.version != version }), true)
}
