package pod

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/errs"
)

// A mount in a directory of nobody's is somebody's files: they are not removed with it.
func TestNothingIsRemovedThroughAMount(t *testing.T) {
	n := newNode(t)
	dir := filepath.Join(n.Root, "pods", strings.Repeat("ef", 32))
	at, theirs := filepath.Join(dir, "volume"), t.TempDir()
	for _, err := range []error{os.MkdirAll(at, 0o700), os.WriteFile(theirs+"/kept", nil, 0o600), syscall.Mount(theirs, at, "", syscall.MS_BIND, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { syscall.Unmount(at, syscall.MNT_DETACH) })
	found, told := n.examine()
	if len(found) != 1 || !strings.Contains(told, dir) {
		t.Fatalf("found %q", told)
	}
	if err := found[0].Mend(t.Context()); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), at) {
		t.Errorf("removed through a mount: %v", err)
	}
	if _, err := os.Stat(theirs + "/kept"); err != nil {
		t.Error(err)
	}
	if err := syscall.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	n.mend(found)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("after unmounting: %v", err)
	}
}
