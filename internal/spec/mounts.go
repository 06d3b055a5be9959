package spec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// mounts are the defaults, the image's anonymous volumes and the request's, outermost first. The request's win over the others at the
// same path, and drop the defaults below theirs (CRI MNT-1).
func mounts(in Input, sc *runtimeapi.LinuxContainerSecurityContext, users *Users) ([]specs.Mount, error) {
	requested, err := requestedMounts(in.Config, users)
	if err != nil {
		return nil, err
	}
	volumes, err := anonymousVolumes(in, users)
	if err != nil {
		return nil, err
	}
	covered := func(m specs.Mount) bool {
		return slices.ContainsFunc(requested, func(r specs.Mount) bool { return r.Destination == m.Destination })
	}
	// A supplied /dev or /sys is the whole of it; a supplied /etc still gets the pod's files.
	below := func(m specs.Mount) bool {
		return slices.ContainsFunc(requested, func(r specs.Mount) bool {
			return strings.HasPrefix(m.Destination, r.Destination+"/") && !strings.HasPrefix(m.Destination, "/etc/")
		})
	}
	all := slices.DeleteFunc(defaultMounts(in, sc), func(m specs.Mount) bool { return covered(m) || below(m) })
	all = append(all, slices.DeleteFunc(volumes, covered)...)
	all = append(all, requested...)
	slices.SortStableFunc(all, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(a.Destination, "/"), strings.Count(b.Destination, "/"))
	})
	return all, nil
}

func defaultMounts(in Input, sc *runtimeapi.LinuxContainerSecurityContext) []specs.Mount {
	kernel := "ro" // sysfs and cgroups change the node: only the privileged may
	if sc.Privileged {
		kernel = "rw"
	}
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", kernel}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "bind", Source: shm(in), Options: []string{"rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", kernel}},
	}
	files := "rw"
	if sc.ReadonlyRootfs {
		files = "ro"
	}
	for _, f := range []struct{ destination, source string }{
		{"/etc/hostname", in.Files.Hostname}, {"/etc/hosts", in.Files.Hosts}, {"/etc/resolv.conf", in.Files.ResolvConf},
	} {
		if f.source != "" {
			m = append(m, specs.Mount{Destination: f.destination, Type: "bind", Source: f.source, Options: []string{"rbind", "rprivate", files}})
		}
	}
	return m
}

func shm(in Input) string {
	switch {
	case in.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE:
		return HostShm
	case in.Files.Shm != "":
		return in.Files.Shm
	}
	return PodShm
}

// propagates reports whether any mount takes part in propagation, which the root must not cut off.
func propagates(mounts []*runtimeapi.Mount) bool {
	return slices.ContainsFunc(mounts, func(m *runtimeapi.Mount) bool {
		return m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	})
}

func requestedMounts(c *runtimeapi.ContainerConfig, users *Users) ([]specs.Mount, error) {
	var out []specs.Mount
	for _, m := range c.Mounts {
		if m == nil {
			return nil, errs.New(errs.InvalidArgument, "mounts: an empty entry")
		}
		mount, err := requestedMount(m)
		if err == nil {
			err = mapOwners(&mount, m, users)
		}
		if err != nil {
			return nil, fmt.Errorf("mounts: %.80s: %w", m.ContainerPath, err)
		}
		out = append(out, mount)
	}
	return out, nil
}

func requestedMount(m *runtimeapi.Mount) (specs.Mount, error) {
	bad := func(format string, args ...any) (specs.Mount, error) {
		return specs.Mount{}, errs.New(errs.InvalidArgument, format, args...)
	}
	if m.ContainerPath == "" || len(m.ContainerPath) > maxPath || strings.IndexByte(m.ContainerPath, 0) >= 0 {
		return bad("container_path: bad path")
	}
	out := specs.Mount{Destination: path.Clean("/" + m.ContainerPath), Type: "bind", Source: m.HostPath, Options: []string{"rbind"}}
	if out.Destination == "/" {
		return bad("container_path: the root cannot be a volume")
	}
	readOnly := "rw"
	if m.Readonly {
		readOnly = "ro"
	}
	if m.RecursiveReadOnly {
		if !m.Readonly {
			return bad("recursive_read_only: readonly must be set too")
		}
		if m.Propagation != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
			return bad("recursive_read_only: propagation must be PRIVATE")
		}
		readOnly = "rro"
	}
	switch m.Propagation {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		out.Options = append(out.Options, "rprivate")
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		out.Options = append(out.Options, "rslave")
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		out.Options = append(out.Options, "rshared")
	default:
		return bad("propagation: unknown mode %v", m.Propagation)
	}
	out.Options = append(out.Options, readOnly)
	for _, o := range m.MountOptions {
		if o != "noexec" && o != "nodev" && o != "nosuid" {
			return bad("mount_options: %q is none of noexec, nodev, nosuid", o)
		}
		out.Options = append(out.Options, o)
	}
	if m.Image.GetImage() != "" {
		if m.HostPath != "" {
			return bad("host_path must be empty with image")
		}
		if !m.Readonly {
			return bad("readonly must be set with image: image volumes are read-only")
		}
		out.Source = ImageVolume + m.Image.Image
		return out, inKernelTree(out)
	}
	if m.ImageSubPath != "" {
		return bad("image_sub_path without image")
	}
	if err := checkPath("host_path", m.HostPath); err != nil {
		return specs.Mount{}, err
	}
	return out, inKernelTree(out)
}

// mapOwners says how a mount numbers the owners of its files (CRI Mount.uidMappings). An image's files are the pod's users' always: nothing else
// could own them.
func mapOwners(out *specs.Mount, m *runtimeapi.Mount, pod *Users) error {
	if len(m.UidMappings)+len(m.GidMappings) == 0 {
		if m.Image.GetImage() != "" {
			out.UIDMappings, out.GIDMappings = pod.mappings()
		}
		return nil
	}
	if pod == nil {
		return errs.New(errs.InvalidArgument, "uidMappings: the pod has no user namespace")
	}
	asked, err := parseMappings("uidMappings", m.UidMappings, m.GidMappings)
	if err != nil {
		return err
	}
	if m.Image.GetImage() != "" && *asked != *pod {
		return errs.New(errs.InvalidArgument, "uidMappings: an image volume has the pod's")
	}
	out.UIDMappings, out.GIDMappings = asked.mappings()
	return nil
}

// procFiles are files below /proc that others fake per container (lxcfs); runc allows the same.
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
	"/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// inKernelTree refuses to cover /proc by anything but the host's (CVE-2019-16884: what is written to a covered /proc goes nowhere).
func inKernelTree(m specs.Mount) error {
	if m.Destination == "/proc" && path.Clean(m.Source) == "/proc" {
		return nil
	}
	if m.Destination != "/proc" && !strings.HasPrefix(m.Destination, "/proc/") || slices.Contains(procFiles, m.Destination) {
		return nil
	}
	return errs.New(errs.InvalidArgument, "container_path: volumes on /proc are refused")
}

// AnonymousVolumes are the paths of an image's volumes that need a directory of their own, clean and sorted: those that no requested
// mount covers (CRI MNT-11). A path that leads out of the image is refused (CVE-2022-23648).
func AnonymousVolumes(c *runtimeapi.ContainerConfig, img Image) ([]string, error) {
	var out []string
	for _, v := range img.Volumes {
		clean := path.Clean("/" + v)
		if slices.Contains(strings.Split(v, "/"), "..") || clean == "/" || len(v) > maxPath || strings.IndexByte(v, 0) >= 0 {
			return nil, errs.New(errs.InvalidArgument, "image Volumes: bad path %.80q", v)
		}
		for _, tree := range []string{"/proc", "/sys", "/dev"} {
			if clean == tree || strings.HasPrefix(clean, tree+"/") {
				return nil, errs.New(errs.InvalidArgument, "image Volumes: %q would cover %s", v, tree)
			}
		}
		if !slices.ContainsFunc(c.GetMounts(), func(m *runtimeapi.Mount) bool { return path.Clean("/"+m.GetContainerPath()) == clean }) {
			out = append(out, clean)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func anonymousVolumes(in Input, users *Users) ([]specs.Mount, error) {
	paths, err := AnonymousVolumes(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	var out []specs.Mount
	for _, p := range paths {
		if source := in.Volumes[p]; source != "" {
			m := specs.Mount{Destination: p, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}}
			m.UIDMappings, m.GIDMappings = users.mappings() // its files are copies of the image's
			out = append(out, m)
		}
	}
	return out, nil
}

// maxPath is PATH_MAX less the NUL.
const maxPath = 4095

// checkPath refuses what is no absolute path.
func checkPath(field, p string) error {
	if !strings.HasPrefix(p, "/") || len(p) > maxPath || strings.IndexByte(p, 0) >= 0 {
		return errs.New(errs.InvalidArgument, "%s: %.80q is not an absolute path", field, p)
	}
	return nil
}
