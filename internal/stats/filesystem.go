package stats

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"fermata/internal/linux"
)

// Filesystem is the one that a directory lies on.
type Filesystem struct {
	// Device is its block device, "/dev/sda1", or "0:31" where it has none that the kernel names.
	Device       string
	Major, Minor uint64
	// Limit is its size in bytes.
	Limit, InodesTotal, InodesFree uint64
}

// MeasureFilesystem looks at the file system a directory lies on.
func MeasureFilesystem(dir string) (Filesystem, error) {
	var space syscall.Statfs_t
	if err := syscall.Statfs(dir, &space); err != nil {
		return Filesystem{}, fmt.Errorf("measure file system: %w", &os.PathError{Op: "statfs", Path: dir, Err: err})
	}
	var at syscall.Stat_t
	if err := syscall.Stat(dir, &at); err != nil {
		return Filesystem{}, fmt.Errorf("measure file system: %w", &os.PathError{Op: "stat", Path: dir, Err: err})
	}
	major, minor := linux.DeviceNumbers(at.Dev)
	return Filesystem{
		Device: DeviceName(uint64(major), uint64(minor)), Major: uint64(major), Minor: uint64(minor),
		Limit: space.Blocks * uint64(space.Bsize), InodesTotal: space.Files, InodesFree: space.Ffree,
	}, nil
}

// DeviceName is the path of a block device in /dev, or "major:minor" if the kernel has no name for it.
func DeviceName(major, minor uint64) string {
	number := fmt.Sprintf("%d:%d", major, minor)
	b, err := os.ReadFile("/sys/dev/block/" + number + "/uevent")
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "DEVNAME="); ok {
			return "/dev/" + strings.TrimSpace(name)
		}
	}
	return number
}
