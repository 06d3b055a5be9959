package spec_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

// A golden file is an input, a line of dashes, and what becomes of it: the spec, or the error's kind and text. The input is JSON, with
// lines of "#" before it; config and sandbox are the CRI's messages, the rest are the fields of spec.Input. Only what differs from the plain
// container is compared when the input says "show": a list of paths into the spec.
func TestContainer(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			head, want, _ := strings.Cut(string(text), "\n---\n")
			got := result(t, head)
			if *update {
				if err := os.WriteFile(f, []byte(head+"\n---\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// golden is an input as its file writes it.
type golden struct {
	Config, Sandbox json.RawMessage
	Image           spec.Image
	Identity        spec.Identity
	Facts           *spec.Facts
	Hostname        string
	Devices         []spec.Device
	Volumes         map[string]string
	AppArmorProfile string
	Files           *spec.PodFiles
	Show            []string
}

func result(t *testing.T, text string) string {
	t.Helper()
	var lines []string
	for _, l := range strings.Split(text, "\n") {
		if !strings.HasPrefix(l, "#") {
			lines = append(lines, l)
		}
	}
	var g golden
	d := json.NewDecoder(strings.NewReader(strings.Join(lines, "\n")))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		t.Fatalf("input: %v", err)
	}
	in := spec.Input{ID: "c", SandboxID: "s", Image: g.Image, Identity: g.Identity, Hostname: g.Hostname, Devices: g.Devices, Volumes: g.Volumes,
		AppArmorProfile: g.AppArmorProfile, CgroupsPath: "/fermata/c",
		Sandbox: &runtimeapi.PodSandboxConfig{}, Config: &runtimeapi.ContainerConfig{},
		Files: spec.PodFiles{Hostname: "/run/s/hostname", Hosts: "/run/s/hosts", ResolvConf: "/run/s/resolv.conf"},
		Facts: spec.Facts{Capabilities: spec.CapabilityNames, OOMScoreAdjMin: -1000, Swap: true},
	}
	if g.Facts != nil {
		in.Facts = *g.Facts
	}
	if g.Files != nil {
		in.Files = *g.Files
	}
	for message, raw := range map[proto.Message]json.RawMessage{in.Config: g.Config, in.Sandbox: g.Sandbox} {
		if raw == nil {
			continue
		}
		if err := protojson.Unmarshal(raw, message); err != nil {
			t.Fatalf("input: %v", err)
		}
	}
	s, err := spec.Container(in)
	if err != nil {
		return "error: " + errs.KindOf(err).String() + ": " + err.Error() + "\n"
	}
	return show(t, s, g.Show)
}

// show prints a spec, or the named parts of it.
func show(t *testing.T, s *specs.Spec, parts []string) string {
	t.Helper()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) == 0 {
		return indent(t, raw) + "\n"
	}
	var b strings.Builder
	for _, p := range parts {
		at := raw
		for _, key := range strings.Split(p, ".") {
			var m map[string]json.RawMessage
			if err := json.Unmarshal(at, &m); err != nil {
				t.Fatal(err)
			}
			if at = m[key]; at == nil {
				at = []byte("null")
			}
		}
		b.WriteString(p + ": " + indent(t, at) + "\n")
	}
	return b.String()
}

func indent(t *testing.T, raw []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatal(err)
	}
	// Lists and small objects on a line each: goldens are read by people.
	text := b.String()
	b.Reset()
	if len(text) < 200 {
		return text
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		for _, e := range list {
			b.WriteString("\n  " + indent(t, e))
		}
		return b.String()
	}
	if err := json.Indent(&b, raw, "", " "); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestExecInheritsAllButItsCommand(t *testing.T) {
	s := &specs.Spec{Process: &specs.Process{Args: []string{"a"}, Env: []string{"A=b"}, Cwd: "/x", User: specs.User{UID: 7}, NoNewPrivileges: true}}
	p := spec.Process(s, []string{"sh", "-c", "x"}, true)
	if strings.Join(p.Args, " ") != "sh -c x" || strings.Join(p.Env, " ") != "A=b TERM=xterm" || !p.Terminal || p.Cwd != "/x" || p.User.UID != 7 || !p.NoNewPrivileges {
		t.Errorf("process %+v", p)
	}
	if len(s.Process.Env) != 1 || s.Process.Args[0] != "a" || s.Process.Terminal {
		t.Errorf("the container's own process changed: %+v", s.Process)
	}
}
