package native_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// tmpfs mounts a filesystem on the host for a test, shared or private.
func (n *node) tmpfs(name string, propagation uintptr) string {
	n.t.Helper()
	dir := n.mkdir(name)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := linux.Unmount(dir); err != nil {
			n.t.Error(err)
		}
	})
	if err := syscall.Mount("", dir, "", propagation, ""); err != nil {
		n.t.Fatal(err)
	}
	return dir
}

func TestPropagation(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	shared, private := n.tmpfs("shared", syscall.MS_SHARED), n.tmpfs("private", syscall.MS_PRIVATE)
	for _, c := range []struct {
		name    string
		source  string
		mode    runtimeapi.MountPropagation
		refused bool
		arrives bool // a mount on the host shows in the container
		leaves  bool // a mount in the container shows on the host
	}{
		{"private sees nothing of the host", shared, runtimeapi.MountPropagation_PROPAGATION_PRIVATE, false, false, false},
		{"host to container", shared, runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, false, true, false},
		{"bidirectional", shared, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, false, true, true},
		{"host to container of a private mount", private, runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, true, false, false},
		{"bidirectional of a private mount", private, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.request("mount=/data/inside", "ready", "wait", "ls=/data/outside")
			r.security().Privileged = true
			r.input.Config.Mounts = []*runtimeapi.Mount{{HostPath: c.source, ContainerPath: "/data", Propagation: c.mode}}
			plan, _, err := p.container(r)
			if c.refused {
				if plan.Close(); !errs.Is(err, errs.InvalidArgument) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range []string{"inside", "outside"} {
				if err := os.MkdirAll(filepath.Join(c.source, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			proc := p.launchPlan(plan).await()
			if _, err := os.Stat(c.source + "/inside/mark"); (err == nil) != c.leaves {
				t.Errorf("the container's mount on the host: %v", err)
			}
			outside := c.source + "/outside"
			if err := syscall.Mount("tmpfs", outside, "tmpfs", 0, "size=4k"); err != nil {
				t.Fatal(err)
			}
			n.file(outside, "arrived", "")
			if out := proc.output(); strings.Contains(out, "arrived") != c.arrives {
				t.Errorf("the host's mount in the container: %q", out)
			}
			for _, d := range []string{"outside", "inside"} {
				if err := linux.Unmount(filepath.Join(c.source, d)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestReadOnlyAllTheWayDown(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	top := n.tmpfs("top", syscall.MS_PRIVATE)
	n.tmpfs("top/sub", syscall.MS_PRIVATE)
	for recursive, want := range map[bool]string{false: "", true: "write /data/sub/x,y error: open /data/sub/x: read-only file system"} {
		r := p.request("write=/data/x,y", "write=/data/sub/x,y")
		r.input.Config.Mounts = []*runtimeapi.Mount{{HostPath: top, ContainerPath: "/data", Readonly: true, RecursiveReadOnly: recursive}}
		proc, _ := p.start(r)
		wants(t, proc.output(), "write /data/x,y error: open /data/x: read-only file system", want)
	}
}

// CVE-2021-30465: a sibling swaps a directory of the volume for a link out of it while containers start that mount below it. Each starts
// or fails; nothing of the host is touched, and no mount is where the link points.
func TestSwappedPlacesOfVolumesLeadNowhere(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	volume, inner, canary := n.mkdir("volume"), n.mkdir("inner"), n.mkdir("canary")
	n.mkdir("volume/a")
	if err := os.Symlink("/../../../../../../../.."+canary, filepath.Join(volume, "b")); err != nil {
		t.Fatal(err)
	}
	dir, err := linux.OpenDir(volume)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				exchange(dir, "a", "b")
			}
		}
	}()
	started := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		r := p.request("ls=/")
		r.input.Config.Mounts = []*runtimeapi.Mount{{HostPath: volume, ContainerPath: "/data"}, {HostPath: inner, ContainerPath: fmt.Sprintf("/data/a/%d", p.containers)}}
		plan, _, err := p.container(r)
		if err != nil {
			t.Fatal(err)
		}
		proc := p.launchPlan(plan)
		if proc.failure() == nil {
			started++
		}
		proc.end()
	}
	close(stop)
	<-stopped
	if started == 0 {
		t.Error("none started: the race was not run")
	}
	if left, _ := os.ReadDir(canary); len(left) != 0 {
		t.Errorf("made on the host: %v", left)
	}
}

// exchange swaps two entries of a directory in one step, renameat2(2).
func exchange(dir *linux.FD, a, b string) {
	number := map[string]uintptr{"amd64": 316, "arm64": 276}[runtime.GOARCH]
	const renameExchange = 2
	from, _ := syscall.BytePtrFromString(a)
	to, _ := syscall.BytePtrFromString(b)
	syscall.Syscall6(number, uintptr(dir.Int()), uintptr(unsafe.Pointer(from)), uintptr(dir.Int()), uintptr(unsafe.Pointer(to)), renameExchange, 0)
}
