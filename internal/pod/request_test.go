package pod

import (
	"bytes"
	"context"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

func TestDNSIsOneWordEach(t *testing.T) {
	n := newNode(t)
	for name, dns := range map[string]*runtimeapi.DNSConfig{
		"a server with a line of its own": {Servers: []string{"10.0.0.1\noptions attempts:9"}},
		"two searches in one":             {Searches: []string{"a b"}},
		"an option with a NUL":            {Options: []string{"ndots:8\x00"}},
	} {
		t.Run(name, func(t *testing.T) {
			req := sandboxRequest("a")
			req.Config.DnsConfig = dns
			if _, err := n.RunPodSandbox(t.Context(), req); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("error %v", err)
			}
		})
	}
	text, err := resolvConf(&runtimeapi.DNSConfig{Servers: []string{"10.0.0.1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:8"}})
	if want := "search a b\nnameserver 10.0.0.1\noptions ndots:8\n"; err != nil || string(text) != want {
		t.Errorf("%q, %v", text, err)
	}
}

func TestALogPathNamesAFileBelowTheDirectory(t *testing.T) {
	for path, good := range map[string]bool{
		"": true, "c/0.log": true, "0.log": true, "a/./b": true,
		"/x": false, "../x": false, "a/../../x": false, ".": false, "a/": false, "a/.": false, "..": false, "a\x00b": false,
	} {
		if err := checkLogPath(path); (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestOutputOfAnExecFitsItsAnswer(t *testing.T) {
	big, small := bytes.Repeat([]byte("x"), execOutputLimit), []byte("small")
	for _, c := range []struct {
		name           string
		stdout, stderr []byte
		out, err       int
	}{
		{"both small", small, small, 5, 5},
		{"a flood and an error", big, small, execOutputLimit - 5, 5},
		{"a line and a flood of errors", small, big, 5, execOutputLimit - 5},
		{"two floods", big, big, execOutputLimit / 2, execOutputLimit / 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			stdout, stderr := fit(c.stdout, c.stderr)
			if len(stdout) != c.out || len(stderr) != c.err {
				t.Errorf("%d and %d bytes, want %d and %d", len(stdout), len(stderr), c.out, c.err)
			}
		})
	}
}

// oneDevice is a directory with one device in it.
type oneDevice struct{ Runtime }

func (oneDevice) Devices(path string) ([]specs.LinuxDevice, error) {
	return []specs.LinuxDevice{{Path: path + "/card0"}}, nil
}

func TestTheOnlyDeviceOfADirectoryStaysBelowIt(t *testing.T) {
	m := &Manager{Options: Options{Runtime: oneDevice{}}}
	got, err := m.devices(&runtimeapi.ContainerConfig{Devices: []*runtimeapi.Device{{HostPath: "/dev/dri", ContainerPath: "/gpu"}}})
	if err != nil || len(got) != 1 || got[0].Path != "/gpu/card0" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAnUpdatedOOMScoreIsCheckedAndInTheSpec(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	podID := must[string](t)(n.RunPodSandbox(t.Context(), req))
	id := must[string](t)(n.CreateContainer(t.Context(), containerRequest(podID, req, "c")))
	update := func(score int64) error {
		return n.UpdateContainerResources(t.Context(), id, &runtimeapi.LinuxContainerResources{OomScoreAdj: score})
	}
	if err := update(1001); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("1001: %v", err)
	}
	if err := update(500); err != nil {
		t.Fatal(err)
	}
	if s := must[*specs.Spec](t)(n.records.ReadSpec(podID, id)); s.Process.OOMScoreAdj == nil || *s.Process.OOMScoreAdj != 500 {
		t.Errorf("spec has %v", s.Process.OOMScoreAdj)
	}
	if got := n.container(id).Resources.Linux.OomScoreAdj; got != 500 {
		t.Errorf("status says %d", got)
	}
}

// All or nothing (UCR-1): also where only the record of it fails.
func TestAnUpdateThatCannotBeWrittenIsNotInForce(t *testing.T) {
	n := newNode(t)
	_, id := n.running("a")
	limit := func(bytes int64) *runtimeapi.LinuxContainerResources {
		return &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: bytes}
	}
	if err := n.UpdateContainerResources(t.Context(), id, limit(64<<20)); err != nil {
		t.Fatal(err)
	}
	r := must[*Container](t)(n.anyContainer(id)).snapshot()
	n.records.fail(syscall.ENOSPC)
	if err := n.UpdateContainerResources(context.Background(), id, limit(128<<20)); err == nil {
		t.Fatal("no error")
	}
	n.records.fail(nil)
	stats, err := n.Cgroups.Group(r.Cgroup).Stats()
	if err != nil {
		t.Fatal(err)
	}
	if got := n.container(id).Resources.Linux.MemoryLimitInBytes; got != 64<<20 || stats.Memory.Limit != 64<<20 {
		t.Errorf("status says %d, the kernel %v", got, stats.Memory.Limit)
	}
}
