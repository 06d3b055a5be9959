package daemon

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/apparmor"
	"fermata/internal/cgroup"
	"fermata/internal/linux"
	"fermata/internal/selinux"
	"fermata/internal/spec"
)

// findFacts looks at the machine once, at start, and has AppArmor's default profile loaded.
func (p *parts) findFacts(ctx context.Context) (err error) {
	if p.facts, err = facts(p.cgroups); err != nil {
		return err
	}
	p.appArmor, p.selinux = apparmor.Open(apparmor.Options{State: p.cfg.State}), selinux.Open(selinux.Options{})
	if p.facts.AppArmor {
		if _, err := p.appArmor.Default(ctx); err != nil { // not the daemon's end: most containers ask for nothing
			p.log.Error("containers that ask for no AppArmor profile run without, those that ask for RuntimeDefault are refused", "error", err)
		}
	}
	if !selinux.Enabled() {
		return nil
	}
	labels, err := p.selinux.Containers()
	if err != nil {
		return err
	}
	if labels.Process == "" || labels.File == "" {
		p.log.Error("the SELinux policy has no contexts/lxc_contexts: containers get no labels")
	}
	p.facts.SELinux = &labels
	return nil
}

// labelImages gives what lies in the image store the label by which containers may read it; what comes inherits it. The label of their
// root filesystem is not enough: the kernel asks for that of the layer's file where one is mapped (overlayfs, as of Linux 6.1).
func (p *parts) labelImages() error {
	if p.facts.SELinux == nil || p.facts.SELinux.Image == "" {
		return nil
	}
	path := filepath.Join(p.cfg.Root, "images")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	dir, err := linux.OpenPath(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if had, err := dir.Label(); err != nil || had == p.facts.SELinux.Image {
		return err
	}
	return dir.LabelTree(p.facts.SELinux.Image)
}

// facts are those that need only be read.
func facts(tree *cgroup.Tree) (spec.Facts, error) {
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
		AppArmor: apparmor.Enabled(), OOMScoreAdjMin: lowestOOMScore(),
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
