package hostile_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/hostile"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func request() *runtimeapi.RunPodSandboxRequest {
	return &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "a"}, PortMappings: []*runtimeapi.PortMapping{{HostPort: 80}},
	}}
}

// Breaking reaches every member of a message, also of those that were not there, and never what it is told not to try.
func TestEveryMemberIsBrokenSomeTime(t *testing.T) {
	seen, kinds := map[string]bool{}, map[string]bool{}
	for i := range uint64(40_000) {
		m := request()
		for _, c := range hostile.New(1, i, map[string][]string{"log_directory": {"", "/only"}}).Break(m) {
			seen[strings.Join(c.Path, ".")] = true
			kinds[c.What] = true
		}
		if dir := m.GetConfig().GetLogDirectory(); dir != "" && dir != "/only" {
			t.Fatalf("log_directory is %q", dir)
		}
	}
	for _, want := range []string{
		"config", "config.metadata.name", "config.port_mappings.host_ip", "config.labels", "runtime_handler",
		"config.linux.security_context.namespace_options.userns_options", "config.dns_config.servers",
	} {
		if !seen[want] {
			t.Errorf("%s was never broken", want)
		}
	}
	for _, want := range []string{"missing", "empty", "random", "unknown fields", "one twice", "3000 entries", "3000 empty ones"} {
		if !kinds[want] {
			t.Errorf("nothing was ever made %s", want)
		}
	}
}

func TestTheSameSeedMakesTheSameRequest(t *testing.T) {
	for i := range uint64(200) {
		a, b := request(), request()
		hostile.New(7, i, nil).Break(a)
		hostile.New(7, i, nil).Break(b)
		// Deterministic bytes: NaN and unknown fields are not equal to themselves otherwise.
		x, errA := proto.MarshalOptions{Deterministic: true}.Marshal(a)
		y, errB := proto.MarshalOptions{Deterministic: true}.Marshal(b)
		if errA != nil || errB != nil || string(x) != string(y) {
			t.Fatalf("request %d differs: %v %v", i, errA, errB)
		}
	}
}

func TestAChangeIsNamedByItsMemberOrWhatItIsPartOf(t *testing.T) {
	c := hostile.Change{Path: []string{"config", "linux", "cgroup_parent"}}
	for text, want := range map[string]bool{
		"config.linux.cgroup_parent: bad": true, "LINUX: bad": true, "config: bad": false, "": false,
	} {
		if c.Names(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
