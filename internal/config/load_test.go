package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/config"
	"fermata/internal/errs"
)

// write puts text into a configuration file of its own and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsNeedNoFile(t *testing.T) {
	cfg, err := config.Load([]string{"--config", write(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, got, want string }{
		{"root", cfg.Root, "/var/lib/fermata"},
		{"state", cfg.State, "/run/fermata"},
		{"listen derives from state", cfg.Listen, "unix:///run/fermata/fermata.sock"},
		{"keeper's socket derives from state", cfg.KeeperSocket(), "/run/fermata/keeper.sock"},
		{"bridge", cfg.Bridge, "fermata0"},
		{"subnet is chosen later", cfg.Subnet, ""},
		{"cgroup parent", cfg.CgroupParent, "/fermata"},
		{"CNI cache derives from root", cfg.CNICacheDir, "/var/lib/fermata/cni"},
		{"no socket for cAdvisor", cfg.CadvisorPath(), ""},
		{"log level", cfg.LogLevel, "info"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
}

func TestFlagsWinOverTheFileAndTheFileOverDefaults(t *testing.T) {
	file := write(t, "state = \"/run/a\"\nbridge = 'br-a'\nlog_level = \"debug\"\n")
	cfg, err := config.Load([]string{"--config=" + file, "--bridge", "br-b"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.State != "/run/a" || cfg.Bridge != "br-b" || cfg.LogLevel != "debug" || cfg.Listen != "unix:///run/a/fermata.sock" {
		t.Errorf("got %+v", cfg)
	}
	if cfg.File != file {
		t.Errorf("File = %q, want %q", cfg.File, file)
	}
}

// Every mutation of a good file is refused at load, and the message leads to the place and, where there is one, to the key meant.
func TestMutatedFilesAreRefusedAtTheirLine(t *testing.T) {
	for _, c := range []struct {
		name, text string
		line       string // ":N:" after the file's name
		says       []string
	}{
		{"a letter too few", "root = \"/a\"\nstat = \"/b\"\n", ":2:", []string{`"stat"`, `did you mean "state"`}},
		{"a letter too many", "roots = \"/a\"\n", ":1:", []string{`did you mean "root"`}},
		{"letters swapped", "\n\nsbunet = \"10.0.0.0/16\"\n", ":3:", []string{`did you mean "subnet"`}},
		{"the flag's dash for the key's underscore", "log-level = \"info\"\n", ":1:", []string{`did you mean "log_level"`}},
		{"capitals", "Bridgee = \"b\"\n", ":1:", []string{`did you mean "bridge"`}},
		{"another project's key", "# c\nsandbox_image = \"x\"\n", ":2:", []string{`"sandbox_image"`, "unknown"}},
		{"another project's table", "[plugins.cri]\nx = 1\n", ":1:", []string{"plugins", "unknown"}},
		{"the file's own option in the file", "config = \"/x\"\n", ":1:", []string{`"config"`, "unknown"}},
		{"a number for a text", "root = 5\n", ":1:", []string{"quotes"}},
		{"a list for a text", "root = \"/a\"\nstate = [\"/b\"]\n", ":2:", nil},
		{"no quotes", "root = /a\n", ":1:", nil},
		{"no value", "root =\n", ":1:", nil},
		{"no equals sign", "root \"/a\"\n", ":1:", nil},
		{"an unclosed text", "root = \"/a\nstate = \"/b\"\n", ":1:", nil},
		{"the same key twice", "root = \"/a\"\nroot = \"/b\"\n", ":2:", nil},
		{"a relative path", "root = \"a/b\"\n", ":1:", []string{"absolute"}},
		{"the root directory itself", "state = \"/\"\n", ":1:", []string{"/ itself"}},
		{"an empty value where there is a default", "bridge = \"\"\n", ":1:", []string{"link"}},
		{"a link's name that is too long", "\nbridge = \"a234567890123456\"\n", ":2:", []string{"15"}},
		{"a link's name with a slash", "bridge = \"a/b\"\n", ":1:", []string{"slash"}},
		{"an address without a prefix", "subnet = \"10.0.0.0\"\n", ":1:", []string{"10.88.0.0/16"}},
		{"an address inside its range", "subnet = \"10.1.2.3/16\"\n", ":1:", []string{"10.1.0.0/16"}},
		{"an IPv6 range for an IPv4 one", "subnet = \"fd00::/64\"\n", ":1:", []string{"IPv4"}},
		{"a range without room", "subnet = \"10.0.0.0/31\"\n", ":1:", []string{"room"}},
		{"a cluster of names", "cluster_cidr = \"pods\"\n", ":1:", []string{"10.244.0.0/16"}},
		{"a cluster with two networks of a family", "\ncluster_cidr = \"10.0.0.0/16,10.1.0.0/16\"\n", ":2:", []string{"each family"}},
		{"a cluster's network with an address in it", "cluster_cidr = \"fd00::/56,10.1.2.0/16\"\n", ":1:", []string{"10.1.0.0/16"}},
		{"a TCP address", "listen = \"tcp://127.0.0.1:1\"\n", ":1:", []string{"unix:///"}},
		{"a relative cgroup", "cgroup_parent = \"pods\"\n", ":1:", []string{"cgroup root"}},
		{"a cgroup that climbs", "cgroup_parent = \"/a/../..\"\n", ":1:", []string{"cgroup root"}},
		{"a level that is none", "log_level = \"warning\"\n", ":1:", []string{`did you mean "warn"`}},
		{"a state whose sockets the kernel cannot name", "state = \"/" + strings.Repeat("s", 100) + "\"\n", ":1:", []string{"107"}},
		{"a socket the kernel cannot name", "\nlisten = \"unix:///" + strings.Repeat("s", 107) + "\"\n", ":2:", []string{"108 bytes", "107"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := write(t, c.text)
			_, err := config.Load([]string{"--config", file})
			if !errs.Is(err, errs.InvalidArgument) {
				t.Fatalf("kind %v, want invalid argument: %v", errs.KindOf(err), err)
			}
			for _, want := range append(c.says, file+c.line) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestMistypedFlagsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"the nearest flag is named", []string{"--sate", "/x"}, []string{"--sate", `did you mean "state"`}},
		{"a value that is impossible names its flag", []string{"--root", "x"}, []string{"--root", "absolute"}},
		{"a word without a dash", []string{"state"}, []string{`"state"`, "only flags"}},
		{"a flag without its value", []string{"--root"}, []string{"root"}},
		{"a file that was asked for and is not there", []string{"--config", "/nonexistent/c.toml"}, []string{"/nonexistent/c.toml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Load(c.args)
			if !errs.Is(err, errs.InvalidArgument) {
				t.Fatalf("kind %v: %v", errs.KindOf(err), err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	if _, err := config.Load([]string{"--help"}); !errors.Is(err, config.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestASocketOfTheLongestLengthIsTaken(t *testing.T) {
	path := "/" + strings.Repeat("s", config.MaxSocketPath-1)
	if _, err := config.Load([]string{"--listen", "unix://" + path}); err != nil {
		t.Error(err)
	}
}

func TestInstancesDifferByRoot(t *testing.T) {
	a, b := config.Config{Root: "/a"}, config.Config{Root: "/b"}
	if a.Instance() == b.Instance() || a.Instance() != (&config.Config{Root: "/a", State: "/x"}).Instance() {
		t.Errorf("instances: %q, %q", a.Instance(), b.Instance())
	}
	if len(a.Instance()) != 8 {
		t.Errorf("instance %q: link names have room for 8 digits", a.Instance())
	}
}

func TestEveryOptionIsExplained(t *testing.T) {
	usage := config.Usage()
	for _, o := range config.Options() {
		if o.Description == "" || o.Kind == "" || (o.Default == "") == (o.Explained == "") {
			t.Errorf("option %+v lacks a description, a kind, or exactly one way to its default", o)
		}
		if !strings.Contains(usage, "--"+o.Flag) {
			t.Errorf("usage does not show --%s:\n%s", o.Flag, usage)
		}
	}
}

// FuzzFile holds that no file whatever makes the loader crash, and that what it takes is checked.
func FuzzFile(f *testing.F) {
	f.Add("root = \"/a\"\nsubnet = \"10.0.0.0/16\"\n")
	f.Add("[a.b]\nc = 1979-05-27T07:32:00Z\n")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := config.Load([]string{"--config", write(t, text)})
		if err != nil {
			return
		}
		if !filepath.IsAbs(cfg.Root) || !filepath.IsAbs(cfg.Socket()) || len(cfg.Socket()) > config.MaxSocketPath {
			t.Errorf("%q was taken as %+v", text, cfg)
		}
	})
}
