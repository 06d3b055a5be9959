package daemon

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/durable"
	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/network"
	"fermata/internal/pod"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestPortMappings(t *testing.T) {
	type asked = runtimeapi.PortMapping
	for _, c := range []struct {
		name  string
		asked *asked
		want  []network.PortMapping
		bad   string
	}{
		{"no host port maps nothing", &asked{ContainerPort: 80}, nil, ""},
		{"a port with an address", &asked{ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1", Protocol: runtimeapi.Protocol_UDP},
			[]network.PortMapping{{Protocol: "udp", ContainerPort: 80, HostPort: 8080, HostIP: netip.MustParseAddr("127.0.0.1")}}, ""},
		{"a host port too large", &asked{ContainerPort: 80, HostPort: 65536}, nil, "host_port"},
		{"no container port", &asked{HostPort: 80}, nil, "container_port"},
		{"no address", &asked{ContainerPort: 80, HostPort: 80, HostIp: "x"}, nil, "host_ip"},
		{"an unknown protocol", &asked{ContainerPort: 80, HostPort: 80, Protocol: 9}, nil, "protocol"},
		{"nil is no mapping", nil, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := portMappings([]*asked{c.asked})
			if c.bad != "" && (!errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.bad)) {
				t.Errorf("error %v does not name %s", err, c.bad)
			}
			if c.bad == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

func TestRecordsComeBackAndABrokenOneCostsOnePod(t *testing.T) {
	r := &records{root: t.TempDir()}
	for _, id := range []string{"a", "b"} {
		p := &pod.PodRecord{ID: id, State: pod.Ready, Created: time.Now(), IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
		c := &pod.ContainerRecord{ID: id + "c", PodID: id, State: pod.Exited, Exit: &pod.Exit{Code: 3}}
		if err := errors.Join(r.WritePod(p), r.WriteContainer(c, &specs.Spec{Hostname: id})); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.root, "b", "pod.json"), []byte(`{"kind":"pod","ver`), 0o600); err != nil {
		t.Fatal(err)
	}
	// What a daemon killed before its first write leaves is swept and no error.
	if err := durable.MakeDir(filepath.Join(r.root, "begun")); err != nil {
		t.Fatal(err)
	}
	pods, broken, err := r.Load()
	if err != nil || len(pods) != 1 || len(broken) != 1 || !strings.Contains(broken[0].Error(), filepath.Join("b", "pod.json")) {
		t.Fatalf("loaded %d pods, broken %v, %v", len(pods), broken, err)
	}
	p := pods[0]
	if p.Pod.ID != "a" || p.Pod.IPs[0].String() != "10.0.0.1" || len(p.Containers) != 1 || p.Containers[0].Exit.Code != 3 {
		t.Errorf("loaded %+v", p)
	}
	if s, err := r.ReadSpec("a", "ac"); err != nil || s.Hostname != "a" {
		t.Errorf("spec %v, %v", s, err)
	}
	// Set aside is not thrown away: not by the next start either.
	if _, again, err := r.Load(); err != nil || len(again) != 1 || !strings.Contains(again[0].Error(), "b") {
		t.Errorf("loaded once more: broken %v, %v", again, err)
	}
	if left, err := filepath.Glob(filepath.Join(r.root, "b", "*")); err != nil || len(left) != 2 { // the record and the containers
		t.Errorf("of the broken pod there is %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(r.root, "begun")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty pod's directory is still there: %v", err)
	}
}

func TestOneDaemonARoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := linux.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := linux.LockFile(path); err == nil {
		second.Close()
		t.Error("two have the lock")
	}
	first.Close()
	again, err := linux.LockFile(path)
	if err != nil {
		t.Errorf("the lock stays after its owner: %v", err)
	}
	again.Close()
}

func TestFactsOfThisMachine(t *testing.T) {
	found, err := linux.Devices("/dev/null")
	if err != nil || len(found) != 1 || found[0].Type != "c" || found[0].Major != 1 || found[0].Minor != 3 {
		t.Errorf("/dev/null is %+v, %v", found, err)
	}
	caps, err := boundingSet()
	if err != nil || len(caps) == 0 || !strings.HasPrefix(caps[0], "CAP_") {
		t.Errorf("bounding set %v, %v", caps, err)
	}
}
