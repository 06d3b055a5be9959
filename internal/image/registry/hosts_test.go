package registry_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/image/registry"
)

// configure writes <dir>/<host>/hosts.toml and returns dir.
func configure(t testing.TB, host, text string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, host, "hosts.toml"), text)
	return dir
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// told is a host in short: "+" before the registry's own, its URL, and what it may be asked.
func told(hosts []registry.Host) []string {
	var all []string
	for _, h := range hosts {
		s := h.Base.String()
		if !h.Mirror {
			s = "+" + s
		}
		if !h.Resolve {
			s += " no resolve"
		}
		if !h.Pull {
			s += " no pull"
		}
		if h.TLS != nil && h.TLS.InsecureSkipVerify {
			s += " unverified"
		}
		for k, v := range h.Header {
			s += fmt.Sprint(" ", k, v)
		}
		all = append(all, s)
	}
	return all
}

func TestHostsTomlSaysWhereToAskInOrder(t *testing.T) {
	for name, c := range map[string]struct {
		host, text string
		want       []string
	}{
		"mirrors in the file's order, then the server": {"docker.io", `
server = "https://registry-1.docker.io"
[host."https://z.example"]
  capabilities = ["pull", "resolve"]
[host."http://a.example:5000"]
  capabilities = ["pull"]
  skip_verify = true
[host."https://m.example".header]
  x-key = "v"
  X-List = ["a", "b"]`,
			[]string{"https://z.example/v2", "http://a.example:5000/v2 no resolve unverified", "https://m.example/v2 X-Key[v] X-List[a b]", "+https://registry-1.docker.io/v2"}},
		"no server: the registry itself":      {"registry.k8s.io", `[host."https://m.example"]`, []string{"https://m.example/v2", "+https://registry.k8s.io/v2"}},
		"a server for everything":             {"gcr.io", `server = "http://127.0.0.1:5000"`, []string{"+http://127.0.0.1:5000/v2"}},
		"server is also a mirror":             {"gcr.io", "server = \"http://127.0.0.1:5000\"\n[host.\"http://127.0.0.1:5000\"]", []string{"http://127.0.0.1:5000/v2"}},
		"a path gets /v2":                     {"gcr.io", `[host."https://m.example/proxy/gcr"]`, []string{"https://m.example/proxy/gcr/v2", "+https://gcr.io/v2"}},
		"a path with /v2 stays":               {"gcr.io", `[host."https://m.example/v2"]`, []string{"https://m.example/v2", "+https://gcr.io/v2"}},
		"override_path takes the path as is":  {"gcr.io", "[host.\"https://m.example/v2/prefix\"]\noverride_path = true", []string{"https://m.example/v2/prefix", "+https://gcr.io/v2"}},
		"a bare host name":                    {"gcr.io", `[host."m.example"]`, []string{"https://m.example/v2", "+https://gcr.io/v2"}},
		"_default serves every registry":      {"_default", `[host."https://m.example"]`, []string{"https://m.example/v2", "+https://gcr.io/v2"}},
		"keys that fermata does not know":     {"gcr.io", "future = 1\n[host.\"https://m.example\"]\nfuture = true", []string{"https://m.example/v2", "+https://gcr.io/v2"}},
		"top-level settings are the server's": {"gcr.io", "skip_verify = true\ncapabilities = [\"pull\"]", []string{"+https://gcr.io/v2 no resolve unverified"}},
		"inline tables":                       {"gcr.io", "host.\"https://b.example\".capabilities = [\"pull\"]\nhost.\"https://a.example\".skip_verify = true", []string{"https://b.example/v2 no resolve", "https://a.example/v2 unverified", "+https://gcr.io/v2"}},
	} {
		t.Run(name, func(t *testing.T) {
			registryHost := c.host
			if registryHost == "_default" {
				registryHost = "gcr.io"
			}
			hosts, err := registry.Hosts(configure(t, c.host, c.text), registryHost)
			if err != nil {
				t.Fatal(err)
			}
			got := told(hosts)
			for i := range got { // headers come in no order
				parts := strings.SplitN(got[i], " X-", 2)
				if len(parts) == 2 && strings.Contains(parts[1], " X-") && strings.HasPrefix(parts[1], "List") {
					got[i] = parts[0] + " X-Key[v] X-List[a b]"
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestRegistryWithoutConfiguration(t *testing.T) {
	for host, want := range map[string]string{
		"docker.io":       "+https://registry-1.docker.io/v2",
		"registry.k8s.io": "+https://registry.k8s.io/v2",
		"localhost:5000":  "+http://localhost:5000/v2",
		"127.0.0.1:5000":  "+http://127.0.0.1:5000/v2",
		"[::1]:5000":      "+http://[::1]:5000/v2",
		"localhost":       "+https://localhost/v2 unverified",
		"127.0.0.1:443":   "+https://127.0.0.1:443/v2 unverified",
		"10.0.0.1:5000":   "+https://10.0.0.1:5000/v2",
	} {
		hosts, err := registry.Hosts(t.TempDir(), host)
		if err != nil || !slices.Equal(told(hosts), []string{want}) {
			t.Errorf("%s: got %q, %v", host, told(hosts), err)
		}
	}
}

func TestFolderOfARegistryWithPort(t *testing.T) {
	for _, folder := range []string{"reg.example:5000", "reg.example_5000_"} {
		hosts, err := registry.Hosts(configure(t, folder, `server = "http://other.example"`), "reg.example:5000")
		if err != nil || told(hosts)[0] != "+http://other.example/v2" {
			t.Errorf("%s: got %q, %v", folder, told(hosts), err)
		}
	}
	first, second := t.TempDir(), configure(t, "gcr.io", `server = "http://other.example"`)
	if hosts, err := registry.Hosts(first+":"+second, "gcr.io"); err != nil || told(hosts)[0] != "+http://other.example/v2" {
		t.Errorf("second of two directories: got %q, %v", told(hosts), err)
	}
}

func TestBrokenConfigurationIsRefusedAndNamed(t *testing.T) {
	for name, text := range map[string]string{
		"no TOML":              "server = ",
		"no URL":               `[host."http://[::1"]`,
		"another scheme":       `server = "ftp://x.example"`,
		"a user in the URL":    `server = "https://user:secret@x.example"`,
		"capabilities no list": `capabilities = "pull"`,
		"ca that is not there": `ca = "nowhere.pem"`,
		"ca that is no string": `ca = 5`,
		"client with three":    `client = [["a", "b", "c"]]`,
		"dial_timeout":         `dial_timeout = "soon"`,
		"header of numbers":    "[header]\nx = 5",
	} {
		t.Run(name, func(t *testing.T) {
			dir := configure(t, "gcr.io", text)
			_, err := registry.Hosts(dir, "gcr.io")
			if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "gcr.io/hosts.toml") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzHosts(f *testing.F) {
	f.Add("server = \"https://a\"\nca = [\"x\"]\nclient = [[\"a\",\"b\"]]\n[host.\"http://b/c\"]\noverride_path = true\n[host.\"http://b/c\".header]\nx = [\"y\"]")
	f.Fuzz(func(t *testing.T, text string) {
		hosts, err := registry.Hosts(configure(t, "gcr.io", text), "gcr.io")
		if err != nil {
			return
		}
		if len(hosts) == 0 {
			t.Fatal("nowhere to ask")
		}
		for _, h := range hosts {
			if h.Base.Scheme != "http" && h.Base.Scheme != "https" || h.Base.Host == "" || h.Base.User != nil || h.Base.RawQuery != "" {
				t.Fatalf("%q gives %q", text, h.Base.String())
			}
		}
	})
}
