package manifest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

// dashes part a golden file: the manifest above, below what is asked of CRI for it. Adding a case is adding a file and running
// `make golden`.
const dashes = "\n-----\n"

var facts = Facts{
	UID: "00000000-0000-4000-8000-000000000001", Data: "/data/00000000-0000-4000-8000-000000000001", Memory: 8 << 30,
	PodIPs:  []string{"10.88.0.2", "fd00::2"},
	HostDNS: &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"example.com"}, Options: []string{"edns0"}},
}

func TestManifestsBecomeRequests(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) < 5 {
		t.Fatalf("golden files: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".golden"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(text), dashes)
			got := render(t, input)
			if *update {
				if err := os.WriteFile(file, []byte(input+dashes+got), 0o644); err != nil {
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

// render prints a plan as YAML, or the refusal.
func render(t *testing.T, input string) string {
	t.Helper()
	pod, err := Parse([]byte(input))
	if err != nil {
		return "refused:\n  " + strings.ReplaceAll(err.Error(), "\n", "\n  ") + "\n"
	}
	plan := Convert(pod, facts)
	message := func(m interface{ MarshalJSON() ([]byte, error) }) json.RawMessage {
		text, err := m.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	view := struct {
		Volumes    []Source         `json:"volumes,omitempty"`
		Sandbox    json.RawMessage  `json:"sandbox"`
		Containers []map[string]any `json:"containers"`
	}{Volumes: plan.Volumes, Sandbox: message(protoJSON{plan.Sandbox})}
	for _, c := range plan.Containers {
		view.Containers = append(view.Containers, map[string]any{"role": c.Role, "pull": c.PullPolicy, "config": message(containerJSON{c.Config})})
	}
	text, err := yaml.Marshal(view)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type protoJSON struct{ m *runtimeapi.PodSandboxConfig }

func (p protoJSON) MarshalJSON() ([]byte, error) { return protojson.Marshal(p.m) }

// containerJSON leaves out what is the same in every container: the lists of hidden and protected paths become their lengths.
type containerJSON struct{ c *runtimeapi.ContainerConfig }

func (c containerJSON) MarshalJSON() ([]byte, error) {
	text, err := protojson.Marshal(c.c)
	if err != nil {
		return nil, err
	}
	var loose map[string]any
	if err := json.Unmarshal(text, &loose); err != nil {
		return nil, err
	}
	security := loose["linux"].(map[string]any)["securityContext"].(map[string]any)
	for _, list := range []string{"maskedPaths", "readonlyPaths"} {
		if paths, ok := security[list].([]any); ok {
			security[list] = len(paths)
		}
	}
	for i, e := range c.c.Envs { // a value is bytes in CRI, which would be unreadable here
		loose["envs"].([]any)[i] = e.Key + "=" + string(e.Value)
	}
	return json.Marshal(loose)
}
