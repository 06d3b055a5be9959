package cadvisor_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	cadvisorv1 "fermata/api/cadvisor/v1"
	"fermata/internal/cadvisor"
	"fermata/internal/cri"
	"fermata/internal/errs"
	"fermata/internal/pod"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// owners are pods by ID.
type owners map[string]*pod.Owner

func (o owners) Owner(id string) (*pod.Owner, error) {
	if found, ok := o[id]; ok {
		return found, nil
	}
	return nil, errs.New(errs.NotFound, "no %s", id)
}

// ask serves the owners and makes one call, by the name containerd's has.
func ask(t *testing.T, all owners, method string, req, resp any) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(cri.Interceptors(slog.New(slog.DiscardHandler))...)
	cadvisor.Register(server, all, "1.2.3")
	served := make(chan struct{})
	go func() { server.Serve(l); close(served) }()
	defer func() { server.Stop(); <-served }()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return conn.Invoke(ctx, method, req, resp)
}

const (
	containersGet = "/containerd.services.containers.v1.Containers/Get"
	tasksGet      = "/containerd.services.tasks.v1.Tasks/Get"
)

func TestWhoseAControlGroupIs(t *testing.T) {
	labels := map[string]string{"io.kubernetes.pod.name": "web"}
	made := time.Unix(1_700_000_000, 5)
	all := owners{
		"s": {ID: "s", Sandbox: true, Labels: labels, Image: "pause", Created: made, PID: 7},
		"c": {ID: "c", Labels: labels, Image: "busybox", Created: made, PID: 8},
		"n": {ID: "n"},
	}
	for name, c := range map[string]struct {
		id, image string
		labels    map[string]string
	}{
		"a sandbox is told by its kind":           {"s", "pause", map[string]string{"io.kubernetes.pod.name": "web", "io.cri-containerd.kind": "sandbox"}},
		"a container by its own":                  {"c", "busybox", map[string]string{"io.kubernetes.pod.name": "web", "io.cri-containerd.kind": "container"}},
		"one without labels still has its kind's": {"n", "", map[string]string{"io.cri-containerd.kind": "container"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got cadvisorv1.GetContainerResponse
			if err := ask(t, all, containersGet, &cadvisorv1.GetContainerRequest{Id: c.id}, &got); err != nil {
				t.Fatal(err)
			}
			o := got.GetContainer()
			if o.GetId() != c.id || o.GetImage() != c.image || !reflect.DeepEqual(o.GetLabels(), c.labels) {
				t.Errorf("got %v", o)
			}
			if c.id != "n" && (o.GetCreatedAt().GetSeconds() != made.Unix() || o.GetCreatedAt().GetNanos() != 5) {
				t.Errorf("made at %v, want %v", o.GetCreatedAt(), made)
			}
			var spec specs.Spec
			if err := json.Unmarshal(o.GetSpec().GetValue(), &spec); err != nil || spec.Process == nil {
				t.Errorf("cAdvisor would fail on the spec %q: %v", o.GetSpec().GetValue(), err)
			}
		})
	}
	if len(labels) != 1 {
		t.Errorf("the owner's labels were changed: %v", labels)
	}
}

func TestTheProcessOfAnOwner(t *testing.T) {
	all := owners{"c": {ID: "c", PID: 8}, "early": {ID: "early"}}
	var got cadvisorv1.GetTaskResponse
	if err := ask(t, all, tasksGet, &cadvisorv1.GetTaskRequest{ContainerId: "c"}, &got); err != nil {
		t.Fatal(err)
	}
	if p := got.GetProcess(); p.GetPid() != 8 || p.GetStatus() != 2 {
		t.Errorf("got %v, want 8 running", p)
	}
	// NotFound, because cAdvisor asks again for that and for nothing else.
	if err := ask(t, all, tasksGet, &cadvisorv1.GetTaskRequest{ContainerId: "early"}, &got); status.Code(err) != codes.NotFound {
		t.Errorf("one that does not run yet: %v, want NotFound", err)
	}
}

func TestUnknownGroupsAreNotFound(t *testing.T) {
	if err := ask(t, nil, containersGet, &cadvisorv1.GetContainerRequest{Id: "x"}, &cadvisorv1.GetContainerResponse{}); status.Code(err) != codes.NotFound {
		t.Errorf("Containers/Get: %v, want NotFound", err)
	}
	if err := ask(t, nil, tasksGet, &cadvisorv1.GetTaskRequest{ContainerId: "x"}, &cadvisorv1.GetTaskResponse{}); status.Code(err) != codes.NotFound {
		t.Errorf("Tasks/Get: %v, want NotFound", err)
	}
}

func TestVersion(t *testing.T) {
	var got cadvisorv1.VersionResponse
	if err := ask(t, nil, "/containerd.services.version.v1.Version/Version", &cadvisorv1.VersionRequest{}, &got); err != nil || got.GetVersion() != "1.2.3" {
		t.Errorf("got %v, %v", &got, err)
	}
}

func TestNothingElseIsAnswered(t *testing.T) {
	for _, method := range []string{"/containerd.services.tasks.v1.Tasks/Kill", "/runtime.v1.RuntimeService/Version"} {
		if err := ask(t, nil, method, &cadvisorv1.VersionRequest{}, &cadvisorv1.VersionResponse{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v, want Unimplemented", method, err)
		}
	}
}
