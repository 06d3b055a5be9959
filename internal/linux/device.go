package linux

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Device is a device node.
type Device struct {
	Path string
	// Type is "c" or "b".
	Type         string
	Major, Minor uint32
	// Mode is the permission bits.
	Mode     uint32
	UID, GID uint32
}

// Devices describes the device at a path, following links, or every device below a directory but those of other filesystems' business
// (/dev/pts, /dev/shm, /dev/mqueue) and links.
func Devices(path string) ([]Device, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if d, ok := deviceOf(path, info); ok {
			return []Device{d}, nil
		}
		return nil, nil
	}
	var all []Device
	err = filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // devices come and go
		}
		if e.IsDir() {
			switch name := strings.TrimPrefix(at, "/dev/"); name {
			case "pts", "shm", "mqueue", "fd", ".udev", ".lxc", ".lxd-mounts":
				return filepath.SkipDir
			}
			return nil
		}
		if info, err := e.Info(); err == nil && at != "/dev/console" {
			if d, ok := deviceOf(at, info); ok {
				all = append(all, d)
			}
		}
		return nil
	})
	return all, err
}

func deviceOf(path string, info fs.FileInfo) (Device, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&os.ModeDevice == 0 {
		return Device{}, false
	}
	d := Device{
		Path: path, Type: "b", Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
	}
	if info.Mode()&os.ModeCharDevice != 0 {
		d.Type = "c"
	}
	return d, true
}
