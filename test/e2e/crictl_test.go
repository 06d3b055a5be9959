package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/tools"
)

// crictlPath finds or builds crictl; a virtual machine brings its own.
func crictlPath(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("FERMATA_TEST_CRICTL"); path != "" {
		return path
	}
	path, err := tools.Crictl(t.Context())
	check(t, err)
	return path
}

// What a person types to try a runtime by hand.
func TestCrictlByHand(t *testing.T) {
	n := start(t)
	program := crictlPath(t)
	config := filepath.Join(n.Dir, "crictl.yaml") // empty: not the machine's
	check(t, os.WriteFile(config, nil, 0o644))
	crictl := func(args ...string) string {
		t.Helper()
		args = append([]string{"--config", config, "--runtime-endpoint", n.Endpoint, "--image-endpoint", n.Endpoint}, args...)
		cmd := exec.CommandContext(t.Context(), program, args...)
		var complaints strings.Builder
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("crictl %s: %v\n%s%s", strings.Join(args[6:], " "), err, out, &complaints)
		}
		return strings.TrimSpace(string(out))
	}
	want := func(out, part string) {
		t.Helper()
		if !strings.Contains(out, part) {
			t.Errorf("no %q in:\n%s", part, out)
		}
	}
	podFile, ctrFile := filepath.Join(n.Dir, "pod.json"), filepath.Join(n.Dir, "container.json")
	check(t, os.WriteFile(podFile, []byte(`{"metadata": {"name": "hand", "namespace": "default", "uid": "u1", "attempt": 1},
		"hostname": "hand", "log_directory": "`+n.Dir+`/logs", "linux": {}}`), 0o644))
	check(t, os.WriteFile(ctrFile, []byte(`{"metadata": {"name": "main"}, "image": {"image": "`+images.Nginx+`"},
		"command": ["sh", "-c", "echo by hand; hostname; exec sleep 1000"], "log_path": "main.log", "linux": {}}`), 0o644))

	want(crictl("version"), "fermata")
	want(crictl("pull", images.Nginx), "sha256:")
	want(crictl("images"), "fermata.local/pause")
	if pinned := pinnedImages(t, crictl("images", "-o", "json")); !strings.Contains(pinned, "fermata.local/pause:") || strings.Contains(pinned, "nginx") {
		t.Errorf("pinned images: %q, want fermata.local/pause alone", pinned)
	}
	podID := crictl("runp", podFile)
	want(crictl("pods"), "hand")
	id := crictl("create", podID, ctrFile, podFile)
	crictl("start", id)
	ps := crictl("ps", "-a")
	want(ps, "main")
	if strings.Contains(ps, "pause") || strings.Count(ps, "\n") != 1 {
		t.Errorf("containers besides the one made (pause is no container):\n%s", ps)
	}
	want(crictl("exec", "-s", id, "cat", "/etc/hostname"), "hand")
	eventually(t, "the log", func() (bool, string) {
		logs := crictl("logs", id)
		return logs == "by hand\nhand", logs
	})
	want(crictl("inspect", id), "CONTAINER_RUNNING")
	want(crictl("inspectp", podID), "SANDBOX_READY")
	want(crictl("stats", "-a"), "main")
	crictl("stop", "--timeout", "0", id)
	want(crictl("inspect", id), "CONTAINER_EXITED")
	crictl("rm", id)
	crictl("stopp", podID)
	want(crictl("inspectp", podID), "SANDBOX_NOTREADY")
	crictl("rmp", podID)
	if pods := crictl("pods", "-q"); pods != "" {
		t.Errorf("pods after rmp: %s", pods)
	}
	crictl("rmi", images.Nginx)
	if list := crictl("images"); strings.Contains(list, "nginx") {
		t.Errorf("images after rmi:\n%s", list)
	}
}

// pinnedImages are the tags of those that `crictl images -o json` calls pinned.
func pinnedImages(t *testing.T, out string) string {
	t.Helper()
	var list struct {
		Images []struct {
			RepoTags []string
			Pinned   bool
		}
	}
	check(t, json.Unmarshal([]byte(out), &list))
	var pinned []string
	for _, i := range list.Images {
		if i.Pinned {
			pinned = append(pinned, i.RepoTags...)
		}
	}
	return strings.Join(pinned, " ")
}
