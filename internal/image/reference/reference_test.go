package reference_test

import (
	"strings"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/image/reference"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

var (
	hex64  = strings.Repeat("0123456789abcdef", 4)
	digest = "sha256:" + hex64
)

func TestNamesGetTheirFullForm(t *testing.T) {
	for written, want := range map[string]string{
		"busybox":                              "docker.io/library/busybox:latest",
		"busybox:1.36":                         "docker.io/library/busybox:1.36",
		"user/app":                             "docker.io/user/app:latest",
		"docker.io/busybox":                    "docker.io/library/busybox:latest",
		"index.docker.io/library/busybox":      "docker.io/library/busybox:latest",
		"localhost/app":                        "localhost/app:latest",
		"localhost:5000/app:v1":                "localhost:5000/app:v1",
		"127.0.0.1:5000/a/b/c":                 "127.0.0.1:5000/a/b/c:latest",
		"[::1]:5000/app":                       "[::1]:5000/app:latest",
		"registry.k8s.io/pause:3.10":           "registry.k8s.io/pause:3.10",
		"registry.k8s.io/pause@" + digest:      "registry.k8s.io/pause@" + digest,
		"registry.k8s.io/pause:3.10@" + digest: "registry.k8s.io/pause:3.10@" + digest,
		"Upper/app":                            "Upper/app:latest",
		"a--b/c__d/e.f_g":                      "docker.io/a--b/c__d/e.f_g:latest",
		"app@sha512:" + hex64 + hex64:          "docker.io/library/app@sha512:" + hex64 + hex64,
	} {
		r, err := reference.Parse(written)
		if err != nil {
			t.Errorf("%s: %v", written, err)
		} else if r.String() != want {
			t.Errorf("%s: got %s, want %s", written, r, want)
		}
	}
}

func TestWhatIsNoNameIsRefused(t *testing.T) {
	for _, written := range []string{
		"", ":", "@", "/", "a//b", "a/", "/a", "a:", "a@", "busybox:-x", "busybox:" + strings.Repeat("x", 129),
		"UPPER", "registry.k8s.io/UPPER", "a b", "a@sha256:12", "a@md5:" + hex64, "a@" + strings.ToUpper(digest), digest, hex64,
		"a.b/../c", "a/./b", "-a/b", "host:port/app", "host:123456/app", "[::1/app", "[]/app", "[::g]/app", "-host.com/app", "a___b",
		"http://host/app", "host/app:tag:tag", "a\x00b", strings.Repeat("a", 256),
	} {
		if r, err := reference.Parse(written); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: got %v, %v; want InvalidArgument", written, r, err)
		}
	}
}

func TestTaggedIsEmptyWithoutTag(t *testing.T) {
	r, err := reference.Parse("a@" + digest)
	if err != nil || r.Tagged() != "" || r.Repository() != "docker.io/library/a" {
		t.Fatalf("got %q, %q, %v", r.Tagged(), r.Repository(), err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"busybox", "a.b:5000/c/d:e@" + digest, "[::1]:1/a", "a@sha512:" + hex64 + hex64, hex64} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := reference.Parse(s)
		if err != nil {
			return
		}
		again, err := reference.Parse(r.String())
		if err != nil || again != r {
			t.Fatalf("%q → %+v → %+v, %v", s, r, again, err)
		}
		if strings.Contains(r.Path, "..") || strings.ContainsAny(r.String(), " \x00\n?#%") || r.Tag == "" && r.Digest == "" {
			t.Fatalf("%q → %+v", s, r)
		}
	})
}
