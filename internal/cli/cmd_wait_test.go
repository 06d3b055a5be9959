package cli

import (
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
)

// told is an event of a pod "web" of the namespace "default" with its containers' statuses.
func told(id string, what runtimeapi.ContainerEventType, at time.Time, containers ...*runtimeapi.ContainerStatus) *runtimeapi.ContainerEventResponse {
	return &runtimeapi.ContainerEventResponse{
		ContainerId: id, ContainerEventType: what, CreatedAt: at.UnixNano(), ContainersStatuses: containers,
		PodSandboxStatus: &runtimeapi.PodSandboxStatus{Id: "aaaa1111", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default"}},
	}
}

func exited(id, name string, code int32) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{
		Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}, State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: code, Reason: "OOMKilled",
	}
}

func TestWaitShowsExitCodes(t *testing.T) {
	const stopped, deleted = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	now := time.Now()
	end := func(id, name string, code int32) *runtimeapi.ContainerEventResponse {
		return told(id, stopped, now, exited(id, name, code))
	}
	for _, c := range []struct {
		name   string
		args   []string
		ended  bool // the server, before
		events []*runtimeapi.ContainerEventResponse
		want   outcome
	}{
		{"of one that ends", []string{"web/server"}, false, []*runtimeapi.ContainerEventResponse{end("c1-aaaa1111", "client", 1), end("c0-aaaa1111", "server", 3)}, outcome{0, "3\n", ""}},
		{"of one that had ended", []string{"web/server"}, true, nil, outcome{0, "4\n", ""}},
		{"of a pod's, as they end", []string{"web"}, false, []*runtimeapi.ContainerEventResponse{end("c1-aaaa1111", "client", 1), end("c0-aaaa1111", "server", 3)},
			outcome{0, "web/client 1\nweb/server 3\n", ""}},
		{"of one that is removed", []string{"web/server"}, false, []*runtimeapi.ContainerEventResponse{told("c0-aaaa1111", deleted, now)},
			outcome{1, "", "fermata: wait for web/server: it was removed\n"}},
		{"that takes too long", []string{"--timeout", "50ms", "web"}, true, nil, outcome{1, "web/server 4\n", "fermata: wait: not ended in 50ms: web/client\n"}},
		{"of none", []string{"wbe"}, false, nil, outcome{1, "", "fermata: container \"wbe\": there is none (did you mean \"web\"?); `fermata ps --all` lists them\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, address := serve(t)
			f.addPod("default", "web", "aaaa1111", "server", "client")
			if c.ended {
				f.containers[0].State, f.containers[0].Image.Image = runtimeapi.ContainerState_CONTAINER_EXITED, "ends:4"
			}
			f.events, f.hold = c.events, true
			if got := do(t, address, "", append([]string{"wait"}, c.args...)...); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestEventsOfRecordsAndThenTheNews(t *testing.T) {
	f, address := serve(t)
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.Local)
	second := func(n int) int64 { return at.Add(time.Duration(n) * time.Second).UnixNano() }
	f.tree = &fermatav1.TreeResponse{Pods: []*fermatav1.TreePod{
		{Id: "bbbb2222", Namespace: "kube-system", Name: "agent", CreatedAt: second(3)},
		{Id: "aaaa1111", Namespace: "default", Name: "web", CreatedAt: second(1), Containers: []*fermatav1.TreeContainer{
			{Id: "c0", Name: "server", Image: "web:1", CreatedAt: second(2), StartedAt: second(4), FinishedAt: second(5), ExitCode: 137, Reason: "OOMKilled"},
			{Id: "c1", Name: "client", Image: "web:1", CreatedAt: second(6)},
		}},
	}}
	f.events = []*runtimeapi.ContainerEventResponse{
		told("c1", runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, at.Add(6*time.Second)), // is in the records already
		told("c1", runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, at.Add(7*time.Second)),
		told("c1", runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, at.Add(8*time.Second), exited("c1", "client", 137)),
		told("aaaa1111", runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, at.Add(9*time.Second)),
	}
	got := do(t, address, "", "events")
	if got.code != 0 {
		t.Errorf("%+v", got)
	}
	golden(t, "events", got.out)
	got = do(t, address, "", "events", "-f")
	if got.code != 1 || !strings.Contains(got.errOut, "the daemon has ended") {
		t.Errorf("%+v", got)
	}
	golden(t, "events-follow", got.out)
	if got := do(t, address, "", "events", "-o", "json"); strings.Count(got.out, "\n") != 6 || !strings.HasPrefix(got.out, `{"time":"2026-11-23T12:00:01`) {
		t.Errorf("%+v", got)
	}
}

func TestChangesHistoryAndPortsAreShown(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server")
	f.changes = []*fermatav1.Change{
		{Kind: fermatav1.Change_CHANGED, Path: []byte("/etc")}, {Kind: fermatav1.Change_ADDED, Path: []byte("/etc/a b\x1b[2J")}, {Kind: fermatav1.Change_DELETED, Path: []byte("/etc/ü")},
	}
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixNano() }
	f.history = []*fermatav1.ImageStep{
		{CreatedAt: ago(26 * time.Hour), CreatedBy: "CMD [\"nginx\"]", Comment: "buildkit"},
		{CreatedAt: ago(26 * time.Hour), CreatedBy: "RUN /bin/sh -c set -eux;\t\n  apt-get update && apt-get install -y everything that there is # buildkit", Layer: "sha256:0123456789abcdef", Size: 12_345_678},
		{Layer: "sha256:fedcba9876543210", Size: 77},
	}
	f.tree = &fermatav1.TreeResponse{Pods: []*fermatav1.TreePod{
		{Id: "aaaa1111", Namespace: "default", Name: "web", Ready: true, Ports: []*fermatav1.TreePort{
			{Protocol: "tcp", ContainerPort: 80, HostPort: 8080}, {Protocol: "udp", ContainerPort: 53, HostPort: 5353, HostIp: "127.0.0.1"}}},
		{Id: "bbbb2222", Namespace: "default", Name: "gone", Ports: []*fermatav1.TreePort{{Protocol: "tcp", ContainerPort: 80, HostPort: 8081}}},
	}}
	for name, args := range map[string][]string{
		"diff": {"diff", "web"}, "history": {"history", "web:1"}, "history-wide": {"history", "web:1", "-o", "wide"}, "port": {"port"}, "port-json": {"port", "web", "-o", "json"},
		"diff-json": {"diff", "web/server", "-o", "json"},
	} {
		got := do(t, address, "", args...)
		if got.code != 0 || got.errOut != "" {
			t.Errorf("%s: %+v", name, got)
		}
		golden(t, name, got.out)
	}
}
