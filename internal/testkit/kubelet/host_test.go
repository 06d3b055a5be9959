package kubelet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestMountsAndCgroupsArePutBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "k")
	cgroup := "/kubelet-host-test-" + filepath.Base(filepath.Dir(filepath.Dir(dir)))
	h, err := prepare(dir, cgroup)
	if err != nil {
		t.Fatal(err)
	}
	groups := h.groups()
	if len(groups) == 0 {
		t.Fatal("no cgroup hierarchy found")
	}
	for _, group := range groups { // as kubepods and a pod's
		if err := os.MkdirAll(filepath.Join(group, "a/b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A mount on a mount, as a volume in the root directory that is bound on itself.
	inner := filepath.Join(dir, "root/inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, point := range []string{filepath.Join(dir, "root"), inner} {
		if err := syscall.Mount("tmpfs", point, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		os.MkdirAll(inner, 0o755)
	}
	if err := h.putBack(); err != nil {
		t.Fatal(err)
	}
	for _, group := range groups {
		if _, err := os.Stat(group); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cgroup %s: %v", group, err)
		}
	}
	if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(table), dir) {
		t.Errorf("still mounted below %s, or %v", dir, err)
	}
}
