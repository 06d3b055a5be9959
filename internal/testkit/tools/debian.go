package tools

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Unpack fetches a Debian package and returns a directory with its files and its version; nothing is installed. The directory is
// kept per version.
func Unpack(ctx context.Context, pkg string) (dir, version string, err error) {
	cache, err := Cache()
	if err != nil {
		return "", "", err
	}
	unlock, err := lock(filepath.Join(cache, "debian.lock"))
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if version, err = candidate(ctx, pkg); err != nil {
		return "", "", err
	}
	dir = filepath.Join(cache, "debian", pkg+"_"+strings.ReplaceAll(version, ":", "%"))
	if _, err := os.Stat(dir); err == nil {
		return dir, version, nil
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(fresh+"/deb", 0o755); err != nil {
		return "", "", err
	}
	if err := run(ctx, fresh+"/deb", "apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", pkg+"="+version); err != nil {
		return "", "", err
	}
	debs, err := filepath.Glob(fresh + "/deb/*.deb")
	if err != nil || len(debs) != 1 {
		return "", "", fmt.Errorf("fetch package %s: %d files %v", pkg, len(debs), err)
	}
	if err := run(ctx, fresh, "dpkg-deb", "-x", debs[0], fresh); err != nil {
		return "", "", err
	}
	if err := os.RemoveAll(fresh + "/deb"); err != nil {
		return "", "", err
	}
	return dir, version, os.Rename(fresh, dir)
}

// Dependency returns the one package that a meta package (linux-image-cloud-amd64) depends on whose name starts so.
func Dependency(ctx context.Context, pkg, prefix string) (string, error) {
	if _, err := candidate(ctx, pkg); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", pkg).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w", pkg, err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, prefix) {
			return name, nil
		}
	}
	return "", fmt.Errorf("dependency %s* of package %s: none in %q", prefix, pkg, out)
}

// candidate returns the version that apt would install, fetching apt's lists when there are none (as on a new machine).
func candidate(ctx context.Context, pkg string) (string, error) {
	for _, refresh := range []bool{false, true} {
		if refresh {
			if err := run(ctx, "/", "apt-get", "update", "-q"); err != nil {
				return "", err
			}
		}
		out, err := exec.CommandContext(ctx, "apt-cache", "policy", pkg).Output()
		if err != nil {
			return "", fmt.Errorf("apt-cache policy %s: %w", pkg, err)
		}
		for _, line := range strings.Split(string(out), "\n") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
				return v, nil
			}
		}
	}
	return "", fmt.Errorf("package %s: no candidate", pkg)
}
