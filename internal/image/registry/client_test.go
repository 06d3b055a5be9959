package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/image/reference"
	"fermata/internal/image/registry"
	"fermata/internal/testkit/handmade"
	fake "fermata/internal/testkit/registry"
)

func repository(t *testing.T, name string, c *registry.Credentials, dir string) *registry.Repository {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(ref, c, registry.Options{Dir: dir, Stall: 200 * time.Millisecond, UserAgent: "fermata/test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func image() *handmade.Image {
	return handmade.New(handmade.NewLayer(handmade.Plain, handmade.File("a", strings.Repeat("0123456789abcdef", 10_000))))
}

// fetch gets the manifest and the layer as one error.
func fetch(t *testing.T, r *registry.Repository, img *handmade.Image) error {
	t.Helper()
	_, _, digest := img.Manifest()
	m, err := r.Manifest(t.Context(), "v1")
	if err != nil {
		return err
	}
	if m.Digest != digest.String() {
		t.Errorf("manifest %s, want %s", m.Digest, digest)
	}
	l := img.Layers[0]
	b, err := r.Blob(t.Context(), l.Digest.String(), int64(len(l.Blob)))
	if err != nil {
		return err
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err == nil && string(got) != string(l.Blob) {
		return fmt.Errorf("%d bytes, want %d, or other contents", len(got), len(l.Blob))
	}
	return err
}

func TestCredentialsOfEveryForm(t *testing.T) {
	basic := &fake.Auth{Username: "u", Password: "p:w"}
	bearer := &fake.Auth{Username: "u", Password: "p:w", Bearer: true, IdentityToken: "identity", RegistryToken: "token"}
	anonymous := &fake.Auth{Bearer: true, Anonymous: true}
	for name, c := range map[string]struct {
		auth *fake.Auth
		with *registry.Credentials
		want errs.Kind
	}{
		"basic, user and password":                       {basic, &registry.Credentials{Username: "u", Password: "p:w"}, 0},
		"basic, auth":                                    {basic, &registry.Credentials{Auth: "dTpwOnc="}, 0},
		"basic, wrong":                                   {basic, &registry.Credentials{Username: "u", Password: "x"}, errs.PermissionDenied},
		"basic, none":                                    {basic, nil, errs.PermissionDenied},
		"basic, empty":                                   {basic, &registry.Credentials{}, errs.PermissionDenied},
		"basic, for this server":                         {basic, &registry.Credentials{Username: "u", Password: "p:w", ServerAddress: "HOST"}, 0},
		"basic, for this server as a URL":                {basic, &registry.Credentials{Username: "u", Password: "p:w", ServerAddress: "http://HOST/v1/"}, 0},
		"basic, for another server":                      {basic, &registry.Credentials{Username: "u", Password: "p:w", ServerAddress: "other.example"}, errs.PermissionDenied},
		"bearer, user and password":                      {bearer, &registry.Credentials{Username: "u", Password: "p:w"}, 0},
		"bearer, identity token":                         {bearer, &registry.Credentials{IdentityToken: "identity"}, 0},
		"bearer, wrong identity token":                   {bearer, &registry.Credentials{IdentityToken: "x"}, errs.PermissionDenied},
		"bearer, registry token":                         {bearer, &registry.Credentials{RegistryToken: "token"}, 0},
		"bearer, wrong registry token":                   {bearer, &registry.Credentials{RegistryToken: "x"}, errs.PermissionDenied},
		"bearer, none":                                   {bearer, nil, errs.PermissionDenied},
		"bearer, anonymous":                              {anonymous, nil, 0},
		"bearer, a token service that cannot be":         {&fake.Auth{Bearer: true, Realm: "ftp://x"}, nil, errs.PermissionDenied},
		"nothing wanted, something given":                {nil, &registry.Credentials{Username: "u", Password: "p"}, 0},
		"bearer, identity token where there is no OAuth": {&fake.Auth{Bearer: true, Anonymous: true}, &registry.Credentials{IdentityToken: "x"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			reg, img := fake.New(t, fake.Options{Auth: c.auth}), image()
			reg.Push("a/b:v1", img)
			if c.with != nil {
				c.with.ServerAddress = strings.ReplaceAll(c.with.ServerAddress, "HOST", reg.Host())
			}
			err := fetch(t, repository(t, reg.Host()+"/a/b:v1", c.with, ""), img)
			if c.want == 0 && err != nil || c.want != 0 && !errs.Is(err, c.want) {
				t.Fatalf("got %v", err)
			}
			for _, secret := range []string{"p:w", "dTpwOnc", "identity", "a-token-from"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the error tells %q: %v", secret, err)
				}
			}
			for _, q := range reg.Requests() {
				if c.with != nil && c.with.ServerAddress == "other.example" && q.Header.Get("Authorization") != "" {
					t.Errorf("credentials for another server were shown: %s", q.Path)
				}
			}
		})
	}
	if s := fmt.Sprintf("%v %+v %#v %s", basicCredentials, basicCredentials, basicCredentials, basicCredentials); strings.Contains(s, "secret") {
		t.Errorf("credentials print as %s", s)
	}
	if _, err := registry.New(reference.Reference{Domain: "x"}, &registry.Credentials{Auth: "?"}, registry.Options{}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("broken auth: %v", err)
	}
}

var basicCredentials = &registry.Credentials{Username: "u", Password: "secret", Auth: "secret", IdentityToken: "secret", RegistryToken: "secret"}

func TestFailuresHaveTheKindACallerCanActOn(t *testing.T) {
	for name, c := range map[string]struct {
		fault fake.Fault
		kind  errs.Kind
		away  bool
	}{
		"404":                     {fake.Fault{Status: 404}, errs.NotFound, false},
		"401 without a challenge": {fake.Fault{Status: 401}, errs.PermissionDenied, false},
		"403":                     {fake.Fault{Status: 403}, errs.PermissionDenied, false},
		"429":                     {fake.Fault{Status: 429}, errs.Unavailable, true},
		"500":                     {fake.Fault{Status: 500}, errs.Unavailable, true},
		"503":                     {fake.Fault{Status: 503}, errs.Unavailable, true},
		"400":                     {fake.Fault{Status: 400}, errs.Internal, false},
		"connection cut":          {fake.Fault{Cut: true}, errs.Unavailable, true},
		"silence":                 {fake.Fault{Stall: true}, errs.Unavailable, true},
		"silence within a blob":   {fake.Fault{Path: "/blobs/", Stall: true, After: 1000}, errs.Unavailable, true},
		"blob always cut":         {fake.Fault{Path: "/blobs/", Cut: true}, errs.Unavailable, true},
		"blob gone":               {fake.Fault{Path: "/blobs/", Status: 404}, errs.NotFound, false},
		"redirected in a circle":  {fake.Fault{Redirect: "SELF"}, errs.Unavailable, true},
	} {
		t.Run(name, func(t *testing.T) {
			reg, img := fake.New(t, fake.Options{}), image()
			reg.Push("a/b:v1", img)
			if c.fault.Redirect != "" {
				c.fault.Redirect = reg.URL()
			}
			reg.Fail(c.fault)
			err := fetch(t, repository(t, reg.Host()+"/a/b:v1", nil, ""), img)
			if !errs.Is(err, c.kind) || errors.Is(err, registry.ErrUnavailable) != c.away {
				t.Errorf("got %v (%v)", err, errs.KindOf(err))
			}
			if err != nil && !strings.Contains(err.Error(), reg.Host()) && c.away && !strings.Contains(err.Error(), "blob") {
				t.Errorf("the error does not say who: %v", err)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := l.Addr().String()
	l.Close()
	if err := fetch(t, repository(t, refused+"/a:v1", nil, ""), image()); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("refused: got %v", err)
	}
}

func TestDownloadThatBreaksOffIsTakenUpWhereItWas(t *testing.T) {
	reg, img := fake.New(t, fake.Options{}), image()
	reg.Push("a/b:v1", img)
	for _, after := range []int{0, 1, 5000, 100_000} {
		reg.Fail(fake.Fault{Path: "/blobs/", Cut: true, After: after, Times: 1})
	}
	if err := fetch(t, repository(t, reg.Host()+"/a/b:v1", nil, ""), img); err != nil {
		t.Fatal(err)
	}
	ranges := 0
	for _, q := range reg.Requests() {
		if q.Header.Get("Range") != "" {
			ranges++
		}
	}
	if ranges == 0 {
		t.Error("it began anew each time")
	}
}

func TestSecretsDoNotGoAlongWithARedirect(t *testing.T) {
	elsewhere, img := fake.New(t, fake.Options{}), image()
	elsewhere.Push("a/b:v1", img)
	reg := fake.New(t, fake.Options{Auth: &fake.Auth{Username: "u", Password: "p"}})
	reg.Push("a/b:v1", img)
	reg.Fail(fake.Fault{Path: "/blobs/", Redirect: elsewhere.URL()})
	dir := configure(t, reg.Host(), "server = \""+reg.URL()+"\"\n[header]\nx-secret = \"s\"\n")
	if err := fetch(t, repository(t, reg.Host()+"/a/b:v1", &registry.Credentials{Username: "u", Password: "p"}, dir), img); err != nil {
		t.Fatal(err)
	}
	if len(elsewhere.Requests()) == 0 {
		t.Fatal("the redirect was not followed")
	}
	for _, q := range elsewhere.Requests() {
		if q.Header.Get("Authorization") != "" || q.Header.Get("X-Secret") != "" {
			t.Errorf("%s went elsewhere with %v", q.Path, q.Header)
		}
	}
	if first := reg.Requests()[0]; first.Header.Get("X-Secret") != "s" || first.Header.Get("User-Agent") != "fermata/test" {
		t.Errorf("the registry was asked with %v", first.Header)
	}
}

func TestHTTPSWithAnAuthorityOfItsOwn(t *testing.T) {
	reg, img := fake.New(t, fake.Options{TLS: true, Auth: &fake.Auth{Username: "u", Password: "p", Bearer: true}}), image()
	reg.Push("a/b:v1", img)
	c := &registry.Credentials{Username: "u", Password: "p"}
	dir := t.TempDir()
	if err := reg.Mirror(dir, "registry.example"); err != nil {
		t.Fatal(err)
	}
	if err := fetch(t, repository(t, "registry.example/a/b:v1", c, dir), img); err != nil {
		t.Errorf("with its authority: %v", err)
	}
	dir = configure(t, "registry.example", "server = \""+reg.URL()+"\"\nskip_verify = true")
	if err := fetch(t, repository(t, "registry.example/a/b:v1", c, dir), img); err != nil {
		t.Errorf("unverified: %v", err)
	}
	dir = configure(t, "registry.example", "server = \""+reg.URL()+"\"")
	if err := fetch(t, repository(t, "registry.example/a/b:v1", c, dir), img); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("with an unknown authority: %v", err)
	}
	dir = t.TempDir()
	write(t, filepath.Join(dir, reg.Host(), "own.crt"), string(reg.CA()))
	hosts, err := registry.Hosts(dir, reg.Host())
	if err != nil || len(hosts) != 1 || hosts[0].TLS == nil || hosts[0].TLS.RootCAs == nil {
		t.Errorf("Docker's form: %+v, %v", hosts, err)
	}
}

func TestMirrorsAreAskedFirstAndMayFail(t *testing.T) {
	mirror, upstream, img := fake.New(t, fake.Options{}), fake.New(t, fake.Options{}), image()
	upstream.Push("a/b:v1", img)
	dir := configure(t, "registry.example", fmt.Sprintf("server = %q\n[host.%q]", upstream.URL(), mirror.URL()))
	if err := fetch(t, repository(t, "registry.example/a/b:v1", nil, dir), img); err != nil {
		t.Fatal(err)
	}
	if first := mirror.Requests()[0]; first.Query != "ns=registry.example" {
		t.Errorf("the mirror was asked with query %q", first.Query)
	}
	mirror.Push("a/b:v1", img)
	upstream.Forget()
	if err := fetch(t, repository(t, "registry.example/a/b:v1", nil, dir), img); err != nil || len(upstream.Requests()) != 0 {
		t.Errorf("mirror full: %v, upstream asked %d times", err, len(upstream.Requests()))
	}
	dir = configure(t, "registry.example", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\"]", upstream.URL(), mirror.URL()))
	mirror.Forget()
	if err := fetch(t, repository(t, "registry.example/a/b:v1", nil, dir), img); err != nil || upstream.Count("", "/manifests/v1") != 1 || mirror.Count("", "/blobs/") != 1 || mirror.Count("", "/manifests/v1") != 0 {
		t.Errorf("mirror without resolve: %v", err)
	}
	mirror.Fail(fake.Fault{Status: 500})
	upstream.Fail(fake.Fault{Status: 404})
	dir = configure(t, "registry.example", fmt.Sprintf("server = %q\n[host.%q]", upstream.URL(), mirror.URL()))
	if err := fetch(t, repository(t, "registry.example/a/b:v1", nil, dir), img); !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "500") {
		t.Errorf("both fail: %v", err)
	}
}

func TestContextEndsARequest(t *testing.T) {
	reg, img := fake.New(t, fake.Options{}), image()
	reg.Push("a/b:v1", img)
	ctx, cancel := context.WithCancel(t.Context())
	reg.Fail(fake.Fault{Path: "/manifests/", Stall: true})
	r := repository(t, reg.Host()+"/a/b:v1", nil, "")
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := r.Manifest(ctx, "v1"); !errors.Is(err, context.Canceled) || errors.Is(err, registry.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
}

func TestDigestsOfManifestsAndSmallBlobsAreChecked(t *testing.T) {
	reg, img := fake.New(t, fake.Options{}), image()
	reg.Push("a/b:v1", img)
	r := repository(t, reg.Host()+"/a/b:v1", nil, "")
	_, _, digest := img.Manifest()
	if _, err := r.Manifest(t.Context(), digest.String()); err != nil {
		t.Fatal(err)
	}
	wrong := "sha256:" + strings.Repeat("0", 64)
	other := image()
	other.Annotations = map[string]string{"other": "image"}
	b, kind, _ := other.Manifest()
	reg.Pretend("a/b", wrong, b, kind)
	if _, err := r.Manifest(t.Context(), wrong); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("manifest: got %v", err)
	}
	reg.Fail(fake.Fault{Path: "/blobs/", Corrupt: true, After: 3})
	if _, err := r.Small(t.Context(), img.ID(), int64(len(img.ConfigBytes()))); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("config: got %v", err)
	}
}
