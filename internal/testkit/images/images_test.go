package images_test

import (
	"context"
	"net/http"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestImagesAreTheSameEveryTime(t *testing.T) {
	first, second := digests(t), digests(t)
	for ref, d := range first {
		if second[ref] != d {
			t.Errorf("%s: %s, then %s", ref, d, second[ref])
		}
	}
	same := func(a, b string, want bool) {
		t.Helper()
		if got := first[a] == first[b]; got != want {
			t.Errorf("%s and %s the same: %v, want %v", a, b, got, want)
		}
	}
	same("registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9", true)
	same("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10", false)
	same("gcr.io/k8s-staging-cri-tools/test-image-tags:1", "gcr.io/k8s-staging-cri-tools/test-image-tags:3", true)
	same("gcr.io/k8s-staging-cri-tools/test-image-1:latest", "gcr.io/k8s-staging-cri-tools/test-image-2:latest", false)
}

func digests(t *testing.T) map[string]v1.Hash {
	t.Helper()
	all, err := images.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]v1.Hash{}
	for ref, img := range all {
		if digests[ref], err = img.Digest(); err != nil {
			t.Fatal(ref, err)
		}
	}
	return digests
}

func TestServedImagesArePulledByTagAndDigest(t *testing.T) {
	r, err := images.Serve(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want, err := r.Images[images.DigestImage+":latest"].Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"latest", want.String()} {
		answer, err := http.Get("http://" + r.Address + "/v2/k8s-staging-cri-tools/test-image-digest/manifests/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := v1.SHA256(answer.Body)
		answer.Body.Close()
		if err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", ref, got, err, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
