package kubelet

import (
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/images"
)

// The kubelet collects when it starts, and then each five minutes: so it is started again.
func TestUnusedImagesAreRemovedAndUsedOnesKept(t *testing.T) {
	w := start(t, map[string]any{"imageMinimumGCAge": "1ns", "imageMaximumGCAge": "2ns"})
	w.pod(t, "user", `containers: [{name: main, image: <busybox>, command: [sleep, "1000"]}]`)
	before := w.ready(t, "user")
	for _, name := range []string{images.Nginx, images.Volumes} {
		_, err := w.CRI.Pull(t.Context(), name)
		check(t, err)
	}
	if have := w.images(t); !slices.Contains(have, images.Nginx) || !slices.Contains(have, images.Volumes) {
		t.Fatalf("there are only the images %v", have)
	}
	check(t, w.kubelet.Stop())
	check(t, w.kubelet.Restart(t.Context()))
	unused := func(name string) bool { return name == images.Nginx || name == images.Volumes }
	for deadline := time.Now().Add(time.Minute); slices.ContainsFunc(w.images(t), unused); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute there are the images %v", w.images(t))
		}
	}
	if have := w.images(t); !slices.Contains(have, images.Busybox) {
		t.Errorf("there is left %v, and a pod uses %s", have, images.Busybox)
	}
	p := w.ready(t, "user")
	is, _ := p.Container("main")
	was, _ := before.Container("main")
	if is.ID() != was.ID() {
		t.Errorf("the container is another one: %s", told(p.Status))
	}
}

// images are the names of the runtime's images.
func (w *world) images(t *testing.T) []string {
	t.Helper()
	list, err := w.CRI.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	check(t, err)
	var names []string
	for _, image := range list.GetImages() {
		names = append(names, image.GetRepoTags()...)
	}
	return names
}
