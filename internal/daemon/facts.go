package daemon

import (
	"bytes"
	"os"
	"strconv"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/cgroup"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// findFacts looks at the machine once, at start.
func findFacts(tree *cgroup.Tree) (spec.Facts, error) {
	caps, err := boundingSet()
	if err != nil {
		return spec.Facts{}, err
	}
	devices, err := linux.Devices("/dev")
	if err != nil {
		return spec.Facts{}, err
	}
	return spec.Facts{
		Capabilities: caps, CgroupMode: cgroupMode(tree.Mode()), Swap: tree.Swap(), Devices: ociDevices(devices),
		AppArmor: isOn("/sys/module/apparmor/parameters/enabled"), SELinux: exists("/sys/fs/selinux/enforce"), OOMScoreAdjMin: lowestOOMScore(),
	}, nil
}

func cgroupMode(m cgroup.Mode) spec.CgroupMode {
	switch m {
	case cgroup.V1:
		return spec.CgroupV1
	case cgroup.Hybrid:
		return spec.CgroupHybrid
	}
	return spec.CgroupV2
}

// boundingSet lists what the daemon may give away.
func boundingSet() ([]string, error) {
	self, err := capability.NewPid2(0)
	if err != nil {
		return nil, err
	}
	if err := self.Load(); err != nil {
		return nil, err
	}
	var names []string
	for _, c := range capability.ListKnown() {
		if self.Get(capability.BOUNDING, c) && self.Get(capability.PERMITTED, c) {
			names = append(names, "CAP_"+upper(c.String()))
		}
	}
	return names, nil
}

func upper(s string) string { return string(bytes.ToUpper([]byte(s))) }

// lowestOOMScore is the lowest oom_score_adj that can be given: without CAP_SYS_RESOURCE nothing below our own.
func lowestOOMScore() int {
	const path = "/proc/self/oom_score_adj"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	own, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return 0
	}
	self, err := capability.NewPid2(0)
	if err == nil && self.Load() == nil && self.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE) {
		return -1000
	}
	return own
}

func isOn(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && bytes.HasPrefix(b, []byte("Y"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func ociDevices(found []linux.Device) []specs.LinuxDevice {
	all := make([]specs.LinuxDevice, 0, len(found))
	for _, d := range found {
		mode, uid, gid := os.FileMode(d.Mode), d.UID, d.GID
		all = append(all, specs.LinuxDevice{
			Path: d.Path, Type: d.Type, Major: int64(d.Major), Minor: int64(d.Minor), FileMode: &mode, UID: &uid, GID: &gid,
		})
	}
	return all
}
