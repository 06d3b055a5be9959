package native_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/engine"
	"fermata/internal/engine/native"
	"fermata/internal/errs"
	"fermata/internal/linux"
)

func TestLayersOfAnOldOverlay(t *testing.T) {
	n := newNode(t)
	n.PretendOldOverlay()
	p := n.pod(nil)
	odd := n.mkdir(`a:b\c,d`)
	n.file(odd, "odd", "")
	// More than a page of names: they go by descriptors.
	lower := []string{odd}
	for i := range 60 {
		d := n.mkdir(fmt.Sprintf("layers/%s-%d", strings.Repeat("x", 60), i))
		n.file(d, fmt.Sprintf("layer-%d", i), "")
		lower = append(lower, d)
	}
	for _, layers := range [][]string{{odd, n.lower}, append(lower, n.lower)} {
		r := p.request("ls=/")
		r.rootfs.Lower = layers
		proc, _ := p.start(r)
		wants(t, proc.output(), "odd", "bin")
	}
	b, err := n.ReadRootfsFile([]string{odd, n.lower}, "/etc/passwd", 1<<20)
	if err != nil || len(b) == 0 {
		t.Errorf("passwd: %q, %v", b, err)
	}
}

func TestManyLayers(t *testing.T) {
	n := newNode(t)
	p := n.pod(nil)
	r := p.request("ls=/")
	r.rootfs.Lower = nil
	for i := range 200 {
		d := n.mkdir(fmt.Sprintf("layers/%d", i))
		r.rootfs.Lower = append(r.rootfs.Lower, d)
	}
	n.file(r.rootfs.Lower[199], "bottom", "")
	r.rootfs.Lower = append(r.rootfs.Lower, n.lower)
	proc, _ := p.start(r)
	wants(t, proc.output(), "bottom", "bin")
}

func TestUnifiedCgroups(t *testing.T) {
	n := newNode(t)
	n.PretendUnified()
	p := n.pod(nil)
	out := p.run("cat=/proc/self/mountinfo", "ls=/sys/fs/cgroup", "mkdir=/sys/fs/cgroup/x")
	wants(t, out, "cgroup.procs", "mkdir /sys/fs/cgroup/x error: mkdir /sys/fs/cgroup/x: read-only file system")
	if !strings.Contains(out, " / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 ") {
		t.Errorf("output:\n%s", out)
	}
}

func TestTargetOnAnOldKernelIsUnimplemented(t *testing.T) {
	n := newNode(t)
	n.PretendNoProcPIDNS()
	p := n.pod(nil)
	r := p.request()
	r.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "x"}
	r.plan = func(c *engine.Container) { c.TargetPID = p.namespaces.PID }
	if plan, _, err := p.container(r); !errs.Is(err, errs.Unimplemented) {
		plan.Close()
		t.Errorf("error %v", err)
	}
}

// The slow way finds what the kernel finds, and what the kernel does not find it leaves as written.
func TestPathsAreResolvedAsTheKernelDoes(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"abs": "/a", "rel": "a/b", "up": "../../../../c", "a/b/back": "../../c", "chain": "rel", "loop": "loop", "a/loop2": "../pool", "pool": "a/loop2",
		"nowhere": "/x/y", "c/half": "../nowhere/z", "dots": "./a/../c/./",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := linux.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	root, err := fs.CloneMount(false)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{ // "": too many links
		"/a": "/a", "/abs/b": "/a/b", "/rel": "/a/b", "/up": "/c", "/rel/back": "/c", "/chain/back/": "/c", "/../../c": "/c", "//a/./b/../b": "/a/b", "/dots": "/c",
		"/loop": "", "/pool/x": "", "/nowhere": "/x/y", "/nowhere/w": "/x/y/w", "/c/half/q": "/x/y/z/q", "/a/new/dir": "/a/new/dir", "/abs/new": "/a/new", "/": "/",
	} {
		walked, err := native.Walk(root, name)
		if (err == nil) != (want != "") || walked != want {
			t.Errorf("%s leads to %q, %v, want %q", name, walked, err, want)
		}
		located, exists, err := native.Locate(root, name)
		if (err == nil) != (want != "") || located != want {
			t.Errorf("%s is located at %q (%v), %v, want %q", name, located, exists, err, want)
		}
	}
}
