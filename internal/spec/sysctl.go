package spec

import (
	"slices"
	"strings"

	"fermata/internal/errs"
)

// maxSysctl bounds a sysctl's value; the kernel takes a page at most.
const maxSysctl = 4095

// CheckSysctls allows the sysctls that belong to a namespace of the pod and refuses all others: those of the host's namespaces would
// change the node (CVE-2022-0532).
func CheckSysctls(sysctls map[string]string, hostNetwork, hostIPC bool) error {
	for name, value := range sysctls {
		path, err := SysctlPath(name)
		if err != nil {
			return err
		}
		if len(value) > maxSysctl || strings.ContainsAny(value, "\x00\n") {
			return errs.New(errs.InvalidArgument, "linux.sysctls: bad value of %s: %.80q", name, value)
		}
		if strings.TrimSpace(name) != name || strings.TrimSpace(value) == "" {
			return errs.New(errs.InvalidArgument, "linux.sysctls: %q=%q is empty or has spaces around it", name, value)
		}
		owner, host := sysctlOwner(path), false
		switch owner {
		case "network":
			host = hostNetwork
		case "IPC":
			host = hostIPC
		default:
			return errs.New(errs.InvalidArgument, "linux.sysctls: %s belongs to no namespace of a pod: it would change the node", name)
		}
		if host {
			return errs.New(errs.InvalidArgument, "linux.sysctls: %s with the host's %s namespace would change the node", name, owner)
		}
	}
	return nil
}

// sysctlOwner names the kind of namespace that a sysctl is of, "" if none.
func sysctlOwner(path string) string {
	switch {
	case strings.HasPrefix(path, "net/"):
		return "network"
	case strings.HasPrefix(path, "kernel/shm"), strings.HasPrefix(path, "kernel/msg"), path == "kernel/sem", strings.HasPrefix(path, "fs/mqueue/"):
		return "IPC"
	}
	return ""
}

// SysctlPath is a sysctl's file below /proc/sys. As with sysctl(8), the first separator of the name decides which of "." and "/"
// separates; the other one is then part of a name (net/ipv4/conf/eth0.100/forwarding).
func SysctlPath(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	parts := strings.Split(path, "/")
	bad := slices.ContainsFunc(parts, func(p string) bool { return p == "" || p == "." || p == ".." })
	if bad || len(parts) < 2 || len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
		return "", errs.New(errs.InvalidArgument, "linux.sysctls: bad name %.80q", name)
	}
	return path, nil
}
