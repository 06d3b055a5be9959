package registry_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/leak"
	"fermata/internal/testkit/registry"
)

func TestMain(m *testing.M) { leak.Main(m) }

// ask sends a request as any HTTP client would, with an Authorization header if given.
func ask(t *testing.T, reg *registry.Registry, path, authorization string) (*http.Response, string) {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if ca := reg.CA(); ca != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	req, err := http.NewRequest(http.MethodGet, reg.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestItServesWhatWasPushedByTagAndDigest(t *testing.T) {
	img := handmade.New(handmade.NewLayer(handmade.Gzip, handmade.File("a", "x")))
	list := &handmade.Index{Images: []*handmade.Image{img}}
	for what, o := range map[string]registry.Options{"HTTP": {}, "HTTPS": {TLS: true}} {
		t.Run(what, func(t *testing.T) {
			reg := registry.New(t, o)
			reg.Push("a/b:v1", list)
			_, _, own := img.Manifest()
			top, kind, digest := list.Manifest()
			for path, want := range map[string]string{
				"/v2/a/b/manifests/v1":                           string(top),
				"/v2/a/b/manifests/" + digest.String():           string(top),
				"/v2/a/b/blobs/" + img.ID():                      string(img.ConfigBytes()),
				"/v2/a/b/blobs/" + img.Layers[0].Digest.String(): string(img.Layers[0].Blob),
			} {
				if resp, got := ask(t, reg, path, ""); resp.StatusCode != 200 || got != want {
					t.Errorf("%s: %d, %d bytes, want %d", path, resp.StatusCode, len(got), len(want))
				}
			}
			if resp, _ := ask(t, reg, "/v2/a/b/manifests/v1", ""); resp.Header.Get("Content-Type") != string(kind) || resp.Header.Get("Docker-Content-Digest") != digest.String() {
				t.Errorf("headers %v", resp.Header)
			}
			if resp, _ := ask(t, reg, "/v2/a/b/manifests/"+own.String(), ""); resp.StatusCode != 200 {
				t.Errorf("a part of the list: %d", resp.StatusCode)
			}
			for _, path := range []string{"/v2/a/b/manifests/v2", "/v2/a/manifests/v1", "/v2/a/b/blobs/sha256:0", "/", "/v2/x"} {
				if resp, _ := ask(t, reg, path, ""); resp.StatusCode != 404 {
					t.Errorf("%s: %d", path, resp.StatusCode)
				}
			}
		})
	}
}

func TestItDemandsWhatItsOptionsSay(t *testing.T) {
	right, wrong := "Basic dTpw", "Basic dTp4" // u:p and u:x
	basic := registry.New(t, registry.Options{Auth: &registry.Auth{Username: "u", Password: "p"}})
	for given, want := range map[string]int{"": 401, wrong: 401, right: 200} {
		if resp, _ := ask(t, basic, "/v2/", given); resp.StatusCode != want {
			t.Errorf("basic, %q: %d, want %d", given, resp.StatusCode, want)
		}
	}
	bearer := registry.New(t, registry.Options{Auth: &registry.Auth{Username: "u", Password: "p", Bearer: true}})
	resp, _ := ask(t, bearer, "/v2/", right)
	if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || !strings.HasPrefix(challenge, "Bearer realm=\""+bearer.URL()+"/token\"") {
		t.Errorf("bearer: %d, %q", resp.StatusCode, challenge)
	}
	if resp, _ := ask(t, bearer, "/token", wrong); resp.StatusCode != 401 {
		t.Errorf("a token for the wrong password: %d", resp.StatusCode)
	}
	_, answer := ask(t, bearer, "/token", right)
	var got struct{ Token string }
	if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Token == "" {
		t.Fatalf("token: %q, %v", answer, err)
	}
	if resp, _ := ask(t, bearer, "/v2/", "Bearer "+got.Token); resp.StatusCode != 200 {
		t.Errorf("with the token: %d", resp.StatusCode)
	}
}

func TestFaultsHappenAsOftenAsAskedAndAreCounted(t *testing.T) {
	reg := registry.New(t, registry.Options{})
	img := handmade.New(handmade.NewLayer(handmade.Plain, handmade.File("a", strings.Repeat("x", 5000))))
	reg.Push("a:v1", img)
	blob := reg.URL() + "/v2/a/blobs/" + img.Layers[0].Digest.String()
	get := func() (int, string, error) {
		resp, err := http.Get(blob)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	defer http.DefaultClient.CloseIdleConnections()
	reg.Fail(registry.Fault{Path: "/blobs/", Times: 2, Status: 503})
	for i, want := range []int{503, 503, 200} {
		if status, _, err := get(); err != nil || status != want {
			t.Errorf("request %d: %d, %v", i, status, err)
		}
	}
	reg.Fail(registry.Fault{Path: "/blobs/", Times: 1, Cut: true, After: 100})
	if _, b, err := get(); !errors.Is(err, io.ErrUnexpectedEOF) || len(b) != 100 {
		t.Errorf("cut: %d bytes, %v", len(b), err)
	}
	reg.Fail(registry.Fault{Path: "/blobs/", Times: 1, Corrupt: true, After: 7})
	if _, b, err := get(); err != nil || b == string(img.Layers[0].Blob) || len(b) != len(img.Layers[0].Blob) {
		t.Errorf("corrupt: %d bytes, %v", len(b), err)
	}
	if n := reg.Count("GET", "/blobs/"); n != 5 {
		t.Errorf("%d requests counted, want 5", n)
	}
	reg.Forget()
	if n := reg.Count("", ""); n != 0 {
		t.Errorf("%d requests after forgetting", n)
	}
}
