package pod

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// fakeVolumes gives directories below one, as if they were images.
type fakeVolumes struct{ root string }

func (f *fakeVolumes) ImageVolume(_ []string, subPath string, _ *spec.Users, _ string) (*linux.FD, error) {
	fd, err := linux.OpenDir(filepath.Join(f.root, subPath))
	if errors.Is(err, syscall.ENOENT) {
		return nil, errs.As(errs.NotFound, err)
	}
	return fd, err
}

func (n *node) holders() string {
	n.images.mu.Lock()
	defer n.images.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(n.images.held)), " ")
}

func imageMount(at, image, subPath string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: at, Readonly: true, Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: subPath}
}

func TestImageVolumesAreHeldShownAndOpened(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	if err := os.Mkdir(filepath.Join(n.volumes.root, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	pod := sandboxRequest("a")
	podID := must[string](t)(n.RunPodSandbox(ctx, pod))
	req := containerRequest(podID, pod, "c")
	req.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/host", HostPath: t.TempDir()}, imageMount("/whole/", "busybox", ""), imageMount("/part", "busybox", "sub"),
	}
	id := must[string](t)(n.CreateContainer(ctx, req))
	users := id + " " + id + "/volume0 " + id + "/volume1"
	if got := n.holders(); got != users {
		t.Errorf("the image is held by %q, want %q", got, users)
	}
	n.restart(ctx)
	if got := n.holders(); got != users {
		t.Errorf("after a restart the image is held by %q, want %q", got, users)
	}
	mounts := n.container(id).Mounts
	if mounts[0].Image != nil || mounts[1].Image.ImageRef != "sha256:busybox" || mounts[2].Image.ImageRef != "sha256:busybox" || mounts[1].ContainerPath != "/whole/" {
		t.Errorf("mounts in status: %v", mounts)
	}
	if req.Config.Mounts[1].Image.ImageRef != "" {
		t.Error("the request was changed")
	}
	if err := n.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(slices.Sorted(slices.Values(n.runtime.volumes)), " "); got != "/part /whole" {
		t.Errorf("given to the runtime: %q", got)
	}
	if err := n.RemovePodSandbox(ctx, podID); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestImageVolumesThatCannotBe(t *testing.T) {
	writable, fromHost := imageMount("/v", "busybox", ""), imageMount("/v", "busybox", "")
	writable.Readonly, fromHost.HostPath = false, "/srv"
	for name, c := range map[string]struct {
		mounts []*runtimeapi.Mount
		kind   errs.Kind
		text   string
	}{
		"writable":               {[]*runtimeapi.Mount{writable}, errs.InvalidArgument, "readonly"},
		"a host path too":        {[]*runtimeapi.Mount{fromHost}, errs.InvalidArgument, "host_path"},
		"an image not here":      {[]*runtimeapi.Mount{imageMount("/v", "elsewhere", "")}, errs.NotFound, "ImageVolumeMountFailed"},
		"a path not in it":       {[]*runtimeapi.Mount{imageMount("/v", "busybox", "missing")}, errs.NotFound, "ImageVolumeMountFailed"},
		"another mount's place":  {[]*runtimeapi.Mount{imageMount("/v", "busybox", ""), {ContainerPath: "//v", HostPath: "/srv"}}, errs.InvalidArgument, "/v"},
		"a second one is broken": {[]*runtimeapi.Mount{imageMount("/v", "busybox", ""), imageMount("/w", "elsewhere", "")}, errs.NotFound, "mounts[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			pod := sandboxRequest("a")
			podID := must[string](t)(n.RunPodSandbox(t.Context(), pod))
			req := containerRequest(podID, pod, "c")
			req.Config.Mounts = c.mounts
			if _, err := n.CreateContainer(t.Context(), req); !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v with %q", err, c.kind, c.text)
			}
			if got := n.holders(); got != "" {
				t.Errorf("held afterwards: %s", got)
			}
		})
	}
}

func TestAnonymousVolumesAreTheContainersOwn(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	n.images.volumes = []string{"/data", "/covered", "/new"}
	for _, dir := range []string{"data", "covered"} {
		if err := errors.Join(os.Mkdir(filepath.Join(n.volumes.root, dir), 0o750),
			os.WriteFile(filepath.Join(n.volumes.root, dir, "file"), []byte(dir), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	pod := sandboxRequest("a")
	podID := must[string](t)(n.RunPodSandbox(ctx, pod))
	var dirs []string
	for _, name := range []string{"one", "two"} {
		req := containerRequest(podID, pod, name)
		req.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/covered", HostPath: t.TempDir()}}
		id := must[string](t)(n.CreateContainer(ctx, req))
		spec, err := n.records.ReadSpec(podID, id)
		if err != nil {
			t.Fatal(err)
		}
		sources := map[string]string{}
		for _, m := range spec.Mounts {
			sources[m.Destination] = m.Source
		}
		if sources["/covered"] != req.Config.Mounts[0].HostPath || sources["/new"] == "" {
			t.Errorf("mounts: %v", sources)
		}
		dirs = append(dirs, sources["/data"])
		if b, err := os.ReadFile(filepath.Join(sources["/data"], "file")); err != nil || string(b) != "data" {
			t.Errorf("copied: %q, %v", b, err)
		}
		if st, err := os.Stat(sources["/data"]); err != nil || st.Mode().Perm() != 0o750 {
			t.Errorf("volume: %v, %v", st, err)
		}
	}
	if dirs[0] == dirs[1] {
		t.Errorf("two containers share %s", dirs[0])
	}
	if err := n.RemovePodSandbox(ctx, podID); err != nil {
		t.Fatal(err)
	}
	n.empty()
}
