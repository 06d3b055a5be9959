package kubelet

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// sysctls are what a kubelet sets when protectKernelDefaults is false, as in setupKernelTunables of pkg/kubelet/cm.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// links is where a kubelet makes a link for each container's log, whatever its configuration says (pkg/kubelet/kuberuntime/legacy.go).
const links = "/var/log/containers"

// host is what a kubelet changes beyond its directories.
type host struct {
	dir, cgroup string
	sysctls     map[string]string
	hadLinks    bool
}

// prepare makes the cgroup in every hierarchy and remembers what a kubelet will change.
func prepare(dir, cgroup string) (*host, error) {
	h := &host{dir: dir, cgroup: cgroup, sysctls: map[string]string{}}
	for _, name := range sysctls {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return nil, err
		}
		h.sysctls[name] = string(value)
	}
	_, err := os.Stat(links)
	h.hadLinks = err == nil
	for _, group := range h.groups() {
		if err := os.MkdirAll(group, 0o755); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// groups is the cgroup in each hierarchy.
func (h *host) groups() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup" + h.cgroup}
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*")
	for i := range hierarchies {
		hierarchies[i] += h.cgroup
	}
	return hierarchies
}

func (h *host) putBack() error {
	failed := []error{h.unmount()}
	for name, value := range h.sysctls {
		failed = append(failed, os.WriteFile("/proc/sys/"+name, []byte(value), 0o644))
	}
	for _, group := range h.groups() {
		failed = append(failed, removeGroup(group))
	}
	found, _ := filepath.Glob(links + "/*")
	for _, link := range found {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, h.dir+"/") {
			failed = append(failed, os.Remove(link))
		}
	}
	if !h.hadLinks {
		os.Remove(links) // stays when another kubelet uses it
	}
	return errors.Join(failed...)
}

// unmount takes down every mount below the directory, the newest first.
func (h *host) unmount() error {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer table.Close()
	var points []string
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], h.dir+"/") {
			points = append(points, fields[4])
		}
	}
	var failed []error
	for _, point := range slices.Backward(points) {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) { // gone with its parent
			failed = append(failed, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(failed...)
}

// removeGroup removes a cgroup with those below it. The kernel refuses (EBUSY) until it has dropped the processes that ended in it, and
// tells nobody when; what still refuses after two seconds has living processes.
func removeGroup(group string) error {
	deadline := time.Now().Add(2 * time.Second)
	for {
		var failed error
		var groups []string
		filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil // gone meanwhile
		})
		for _, path := range slices.Backward(groups) {
			if err := syscall.Rmdir(path); err != nil && !errors.Is(err, syscall.ENOENT) {
				failed = errors.Join(failed, fmt.Errorf("remove cgroup %s: %w", path, err))
			}
		}
		if failed == nil || time.Now().After(deadline) {
			return failed
		}
		time.Sleep(10 * time.Millisecond)
	}
}
