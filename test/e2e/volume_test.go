package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/images"
)

func imageMount(at, image, subPath string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: at, Readonly: true, Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: subPath}
}

// MNT-10: an image as a volume is read-only, programs run from it, and it stays as long as its container, whatever becomes of the image's name or the daemon.
func TestAnImageIsAVolume(t *testing.T) {
	n := start(t)
	imageID, err := n.CRI.Pull(t.Context(), images.Volumes)
	check(t, err)
	p, _ := pod(t, n, "volumes")
	ctr := shell("main", "exec sleep 1000")
	ctr.Mounts = []*runtimeapi.Mount{imageMount("/image/", images.Volumes, "")}
	id := p.run(t, ctr)
	exec := func(script, want string) {
		t.Helper()
		if out, err := n.CRI.Exec(t.Context(), id, "sh", "-c", script); err != nil || out != want {
			t.Errorf("%s: %q, %v; want %q", script, out, err, want)
		}
	}
	exec("/image/bin/busybox echo run; touch /image/x 2>/dev/null || echo read-only", "run\nread-only\n")
	st, err := n.CRI.State(t.Context(), id)
	check(t, err)
	if len(st.GetMounts()) != 1 || st.Mounts[0].GetImage().GetImageRef() != imageID || st.Mounts[0].GetContainerPath() != "/image/" {
		t.Errorf("mounts in status: %v, want image_ref %s", st.GetMounts(), imageID)
	}
	_, err = n.CRI.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: images.Volumes}})
	check(t, err)
	check(t, n.Kill())
	check(t, n.Restart(t.Context()))
	exec("cat /image/data/file", "of the image\n")
	_, err = n.CRI.Pull(t.Context(), images.Volumes)
	check(t, err)

	refused := shell("refused", "true")
	refused.Mounts = []*runtimeapi.Mount{imageMount("/image", images.Volumes, "no/such")}
	if _, err := n.CRI.Create(t.Context(), p.id, p.config, refused); err == nil || !strings.Contains(err.Error(), "ImageVolumeMountFailed") {
		t.Errorf("a path that is not in the image: %v", err)
	}
	refused.Mounts[0].ImageSubPath, refused.Mounts[0].Readonly = "", false
	if _, err := n.CRI.Create(t.Context(), p.id, p.config, refused); status.Code(errors.Unwrap(err)) != codes.InvalidArgument && status.Code(err) != codes.InvalidArgument {
		t.Errorf("a writable image: %v", err)
	}
	part := shell("part", "cat /part/file; ls /part/../part | wc -l")
	part.Mounts = []*runtimeapi.Mount{imageMount("/part", images.Volumes, "data")}
	p.run(t, part)
	eventually(t, "a part of an image", func() (bool, string) {
		lines := fmt.Sprint(p.lines(t, "part"))
		return lines == "[stdout of the image stdout 3]", lines
	})
}

// MNT-11: an image's own volumes are filled with what it has there, belong to one container and go with it.
func TestAnImagesOwnVolumes(t *testing.T) {
	n := start(t)
	_, err := n.CRI.Pull(t.Context(), images.Volumes)
	check(t, err)
	p, _ := pod(t, n, "anonymous")
	host := filepath.Join(n.Dir, "host")
	check(t, os.Mkdir(host, 0o755))
	for i, name := range []string{"one", "two"} {
		ctr := shell(name, "cat /data/file; stat -c %a /data/secret; readlink /data/link; echo changed > /data/file; touch /empty/x; ls /covered; exec sleep 1000")
		ctr.Image.Image = images.Volumes
		ctr.Mounts = []*runtimeapi.Mount{{ContainerPath: "/covered", HostPath: host}}
		id := p.run(t, ctr)
		eventually(t, "what the volumes hold", func() (bool, string) {
			lines := strings.Join(p.lines(t, name), "; ")
			return lines == "stdout of the image; stdout 600; stdout /etc/passwd", lines
		})
		if i == 0 {
			check(t, n.Kill())
			check(t, n.Restart(t.Context()))
			if out, err := n.CRI.Exec(t.Context(), id, "cat", "/data/file"); err != nil || out != "changed\n" {
				t.Errorf("after a restart: %q, %v", out, err)
			}
		}
	}
}
