package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/images"
)

// Faults as users meet them; `fermata why` names stage and culprit in its first line, and what the kubelet is told, if it is told anything, has the same cause.
func TestWhyNamesStageAndCulprit(t *testing.T) {
	w := start(t)
	if w.Kind != "fermata" {
		t.Skip("containerd does not say why")
	}
	w.mirrors(t)
	p, podID := pod(t, w, "why")
	for _, f := range []struct {
		name string
		// plant returns what to ask about and what the kubelet was told.
		plant func(t *testing.T) (about string, told error)
		// first is in the first line and, but for what ended by itself, in what the kubelet was told; culprit is who is to blame.
		first, culprit string
	}{
		{"the image is missing", func(t *testing.T) (string, error) {
			_, err := w.CRI.Pull(t.Context(), "registry.k8s.io/nosuch/image:9")
			return "registry.k8s.io/nosuch/image:9", err
		}, "registry.k8s.io/nosuch/image:9", "image registry.k8s.io/nosuch/image:9"},
		{"the registry is down", func(t *testing.T) (string, error) {
			_, err := w.CRI.Pull(t.Context(), "down.test/app:1")
			return "down.test/app:1", err
		}, "connection refused", "registry down.test"},
		{"the credentials are bad", func(t *testing.T) (string, error) {
			_, err := w.CRI.Pull(t.Context(), "locked.test/app:1")
			return "locked.test/app:1", err
		}, "locked.test", "credentials for locked.test"},
		{"the program is missing", func(t *testing.T) (string, error) {
			return p.fails(t, "absent", func(c *runtimeapi.ContainerConfig) { c.Command = []string{"nosuch"} })
		},
			`exec "nosuch": executable file not found in $PATH`, "program nosuch"},
		{"the program is for another machine", func(t *testing.T) (string, error) {
			alien := filepath.Join(w.Dir, "alien")
			check(t, os.WriteFile(alien, []byte("\x7fELFno machine has this"), 0o755))
			return p.fails(t, "alien", func(c *runtimeapi.ContainerConfig) {
				c.Command, c.Mounts = []string{"/alien"}, []*runtimeapi.Mount{{HostPath: alien, ContainerPath: "/alien"}}
			})
		}, `exec "/alien": exec format error`, "program /alien"},
		{"the seccomp profile is not there", func(t *testing.T) (string, error) {
			return p.fails(t, "unprofiled", func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/nosuch/profile.json"}
			})
		}, "/nosuch/profile.json", "seccomp profile /nosuch/profile.json"},
		{"a mount's source cannot be", func(t *testing.T) (string, error) {
			return p.fails(t, "unmounted", func(c *runtimeapi.ContainerConfig) {
				c.Mounts = []*runtimeapi.Mount{{HostPath: "/etc/passwd/below", ContainerPath: "/data"}}
			})
		}, "/etc/passwd/below", "mount source /etc/passwd/below"},
		{"memory ran out", func(t *testing.T) (string, error) {
			c := shell("greedy", "x=a; while :; do x=$x$x; done")
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
			id := p.run(t, c)
			_, err := w.CRI.WaitExited(t.Context(), id)
			check(t, err)
			return "why-pod/greedy", nil
		}, "its memory limit of 16.0 MiB was reached (OOMKilled, exit code 137)", "memory limit of 16.0 MiB"},
	} {
		t.Run(f.name, func(t *testing.T) {
			about, told := f.plant(t)
			if told != nil && !strings.Contains(told.Error(), f.first) {
				t.Errorf("the kubelet is told %v, want %q in it", told, f.first)
			}
			w.says(t, strings.Replace(about, "why-pod", p.config.GetMetadata().GetName(), 1), f.first, f.culprit)
		})
	}
	said, err := w.Run(t.Context(), "why", podID[:12])
	if err != nil || !strings.Contains(said, "OOMKilled") {
		t.Errorf("the pod of all these: %v\n%s", err, said)
	}
	check(t, w.CRI.RemovePod(t.Context(), podID))
	w.says(t, p.config.GetMetadata().GetName(), "was removed", "memory limit of 16.0 MiB")
}

// A pod that hangs in a network plugin says so while it hangs, and what it was afterwards; a slow stage is as long as it was.
func TestWhyAndTimelineOfASlowNetwork(t *testing.T) {
	w := start(t)
	if w.Kind != "fermata" {
		t.Skip("containerd does not say why")
	}
	dir := w.cniDir(t, "")
	script := fmt.Sprintf("#!/bin/sh\nif [ $CNI_COMMAND = ADD ]; then touch %[1]s/asked; until [ -e %[1]s/go ]; do usleep 1000 2>/dev/null || sleep 0.01; done; fi\n%[2]s", dir,
		strings.TrimPrefix(fmt.Sprintf(recorder, dir), "#!/bin/sh\n"))
	check(t, os.WriteFile(filepath.Join(w.cniDir(t, "bin"), "slow"), []byte(script), 0o755))
	check(t, os.WriteFile(filepath.Join(w.cniDir(t, "conf"), "10-slow.conf"), []byte(`{"cniVersion":"1.0.0","name":"slow","type":"slow"}`), 0o644))
	config := cri.PodConfig("slow", "")
	type made struct {
		id  string
		err error
	}
	done := make(chan made, 1)
	began := time.Now()
	go func() { id, err := w.CRI.RunPod(t.Context(), config); done <- made{id, err} }()
	eventually(t, "the plugin is asked", func() (bool, string) { _, err := os.Stat(dir + "/asked"); return err == nil, fmt.Sprint(err) })
	asked := time.Now()
	w.says(t, config.GetMetadata().GetName(), "is being made for", "CNI plugin slow")
	w.says(t, config.GetMetadata().GetName(), "stage network", "CNI plugin slow")
	waited := time.Since(asked)
	check(t, os.WriteFile(dir+"/go", nil, 0o644))
	m := <-done
	check(t, m.err)
	took := time.Since(began)
	out, err := w.Run(t.Context(), "timeline", config.GetMetadata().GetName(), "-o", "json")
	check(t, err)
	var told struct {
		Stages []struct{ Pipeline, Name, Start, End string }
	}
	check(t, json.Unmarshal([]byte(out), &told))
	var sum time.Duration
	for _, s := range told.Stages {
		var start, end int64
		fmt.Sscan(s.Start, &start)
		fmt.Sscan(s.End, &end)
		sum += time.Duration(end - start)
		if s.Name == "network" && time.Duration(end-start) < waited {
			t.Errorf("stage network took %v, the plugin more than %v", time.Duration(end-start), waited)
		}
	}
	if sum > took || sum < took*8/10 {
		t.Errorf("the stages sum up to %v of %v", sum, took)
	}
	if said, err := w.Run(t.Context(), "timeline", m.id[:12]); err != nil || !strings.Contains(said, "run/network") || !strings.Contains(said, "█") {
		t.Errorf("timeline: %v\n%s", err, said)
	}
	if said, err := w.Run(t.Context(), "timeline", m.id[:12], "--perfetto"); err != nil || !json.Valid([]byte(said)) || !strings.Contains(said, `"ph":"X"`) {
		t.Errorf("trace: %v\n%s", err, said)
	}
}

// says asks why, and looks at the first line and the culprit.
func (w *world) says(t *testing.T, about, first, culprit string) {
	t.Helper()
	said, err := w.Run(t.Context(), "why", about)
	head, rest, _ := strings.Cut(said, "\n")
	if err != nil || !strings.Contains(head, first) || !strings.Contains(rest, "culprit: "+culprit+"\n") {
		t.Errorf("why %s: %v, want %q in the first line and culprit %q:\n%s", about, err, first, culprit, said)
	}
}

// fails makes a container that cannot be started, and returns its name and what the kubelet is told.
func (p *podOf) fails(t *testing.T, name string, spoil func(*runtimeapi.ContainerConfig)) (about string, told error) {
	t.Helper()
	c := cri.ContainerConfig(name, images.Busybox, "true")
	spoil(c)
	_, err := p.n.CRI.Run(t.Context(), p.id, p.config, c)
	if err == nil {
		t.Error("it started")
	}
	return p.config.GetMetadata().GetName() + "/" + name, err
}

// mirrors names two registries besides the test's: one that is down, one that lets nobody in.
func (w *world) mirrors(t *testing.T) {
	t.Helper()
	locked := httptest.NewServer(http.HandlerFunc(func(r http.ResponseWriter, _ *http.Request) { r.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(locked.Close)
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close() // its port is nobody's now
	for host, server := range map[string]string{"locked.test": locked.URL, "down.test": down.URL} {
		dir := filepath.Join(w.Dir, "certs.d", host)
		check(t, os.MkdirAll(dir, 0o755))
		check(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = %q\n", server), 0o644))
	}
}
