package native

import (
	"errors"
	"path"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// defaultDevices are those that the OCI runtime spec has in every container.
var defaultDevices = []struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

var devLinks = []struct{ target, name string }{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
}

// fillDev puts everything into the container's /dev while it is a mount that nobody else can reach, by its descriptor: the image's own
// /dev, or where that leads to, has no say (CVE-2026-41579).
func (r *root) fillDev() error {
	for _, d := range defaultDevices {
		if err := r.dev.MakeDeviceEntry(d.name, linux.TypeCharacter|0o666, d.major, d.minor); err != nil {
			return err
		}
		if err := r.users.own(r.dev, d.name); err != nil {
			return err
		}
	}
	for _, l := range devLinks {
		if err := r.dev.SymlinkEntry(l.target, l.name); err != nil {
			return err
		}
		if err := r.users.own(r.dev, l.name); err != nil {
			return err
		}
	}
	for _, d := range r.c.Spec.Linux.Devices {
		if err := r.makeDevice(d); err != nil {
			return err
		}
	}
	if r.c.Spec.Process.Terminal {
		f, err := r.dev.CreateEntry("console", 0o600) // the terminal is mounted on it, see tty.go
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		return f.Close()
	}
	return nil
}

// makeDevice makes one more device, in /dev or (a device plugin's whim) in the rootfs. A default device that is asked for again stays.
func (r *root) makeDevice(d specs.LinuxDevice) error {
	tree, rel := r.dev, strings.TrimPrefix(path.Clean(d.Path), "/dev/")
	if rel == path.Clean(d.Path) {
		tree = r.fd
	}
	kind := map[string]uint32{"c": linux.TypeCharacter, "u": linux.TypeCharacter, "b": linux.TypeBlock, "p": linux.TypeFIFO}[d.Type]
	parts := components(rel)
	if kind == 0 || len(parts) == 0 {
		return errs.New(errs.InvalidArgument, "linux.devices: bad device %s of type %q", d.Path, d.Type)
	}
	parent, err := r.users.makeDirectories(tree, parts[:len(parts)-1])
	if err != nil {
		return err
	}
	defer parent.Close()
	mode, last := uint32(0o666), parts[len(parts)-1]
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	err = parent.MakeDeviceEntry(last, kind|mode, uint32(d.Major), uint32(d.Minor))
	if errors.Is(err, syscall.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	uid, gid := r.deviceOwner(d)
	if uid == 0 && gid == 0 {
		return nil
	}
	return parent.ChownEntry(last, uid, gid)
}

// deviceOwner is who owns a device node, as the host numbers it: the same inside as the host's node has outside, or root where nobody inside has
// that number.
func (r *root) deviceOwner(d specs.LinuxDevice) (uid, gid uint32) {
	uid, gid = r.users.root()
	if r.users == nil && (d.UID == nil || d.GID == nil) {
		return 0, 0
	}
	if d.UID != nil {
		if host, err := r.users.hostUID(*d.UID); err == nil {
			uid = host
		}
	}
	if d.GID != nil {
		if host, err := r.users.hostGID(*d.GID); err == nil {
			gid = host
		}
	}
	return uid, gid
}
