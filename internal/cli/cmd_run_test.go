package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fermata/internal/cli/manifest"
)

// put writes a manifest and returns its path and a directory for --data.
func put(t *testing.T, text string) (file, data string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "pod.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, filepath.Join(dir, "data")
}

const shop = `
apiVersion: v1
kind: Pod
metadata: {name: shop, uid: u-1}
spec:
  securityContext: {fsGroup: 33}
  initContainers:
  - {name: seed, image: "ends:0"}
  - {name: proxy, image: "registry.example.com/proxy:1", restartPolicy: Always}
  containers:
  - name: till
    image: registry.example.com/till:1
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    volumeMounts: [{name: work, mountPath: /work, subPath: a/b}]
  volumes:
  - {name: work, emptyDir: {}}
`

func TestRunStartsAPodInOrder(t *testing.T) {
	f, address := serve(t)
	f.addImage("registry.example.com/till:1", "sha256:till")
	file, data := put(t, shop)
	got := do(t, address, "", "run", "-f", file, "--data", data)
	if got.code != 0 || got.out != "pod/shop created\n" {
		t.Fatalf("%+v", got)
	}
	var order []string
	for _, c := range f.containers {
		order = append(order, c.Metadata.Name+" "+c.Labels[manifest.RoleLabel])
	}
	if want := "seed init, proxy sidecar, till main"; strings.Join(order, ", ") != want {
		t.Errorf("order %q, want %q", order, want)
	}
	if n := f.count("PullImage"); n != 2 {
		t.Errorf("%d pulls, want 2: what is here is not pulled", n)
	}
	till := f.asked["ctr2"]
	if string(till.Envs[0].Value) != "10.88.0.2" {
		t.Errorf("IP=%s: the pod's address is known before its containers are made", till.Envs[0].Value)
	}
	st, err := os.Stat(filepath.Join(data, "u-1", "volumes", "work"))
	if err != nil || st.Mode().Perm() != 0o777 || st.Mode()&os.ModeSetgid == 0 {
		t.Errorf("emptyDir: %v, %v", st, err)
	}
	if _, err := os.Stat(till.Mounts[0].HostPath); err != nil {
		t.Errorf("subPath: %v", err)
	}
	if got := do(t, address, "", "pods"); !strings.Contains(got.out, "shop   2/2     Running") {
		t.Errorf("%s", got.out)
	}

	if got := do(t, address, "", "run", "-f", file, "--data", data); got.code != 1 || !strings.Contains(got.errOut, "pod default/shop: is there already: `fermata rm shop`") {
		t.Errorf("%+v", got)
	}
	if got := do(t, address, "", "run", "-f", file, "--data", data, "--replace"); got.code != 0 || got.out != "pod/shop removed\npod/shop created\n" {
		t.Errorf("%+v", got)
	}
	if got := do(t, address, "", "rm", "shop"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if left, err := os.ReadDir(data); err != nil || len(left) != 0 {
		t.Errorf("left in %s: %v, %v", data, left, err)
	}
}

func TestImagePullPolicyDecidesWhatIsPulled(t *testing.T) {
	for _, c := range []struct {
		image, policy string
		pulls         int
	}{
		{"here:1", "", 0}, {"here:1", "IfNotPresent", 0}, {"here:1", "Never", 0}, {"here:1", "Always", 1},
		{"here:latest", "", 1}, {"away:1", "", 1}, {"away:1", "Always", 1},
	} {
		t.Run(c.image+" "+c.policy, func(t *testing.T) {
			f, address := serve(t)
			f.addImage("here:1", "sha256:1")
			f.addImage("here:latest", "sha256:2")
			file, data := put(t, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
				{"name": "a", "image": "`+c.image+`", "imagePullPolicy": "`+c.policy+`"}, {"name": "b", "image": "`+c.image+`", "imagePullPolicy": "`+c.policy+`"}]}}`)
			if got := do(t, address, "", "run", "-f", file, "--data", data); got.code != 0 || f.count("PullImage") != c.pulls {
				t.Errorf("%d pulls, want %d (two containers of one image are one pull); %+v", f.count("PullImage"), c.pulls, got)
			}
		})
	}
}

func TestRunThatDoesNotSucceedSaysWhyAndWhatNow(t *testing.T) {
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: u-1}\nspec: " + spec + "\n"
	}
	for _, c := range []struct {
		name, manifest string
		fail           string
		says           []string
		left           bool // whether the pod and its data stay
	}{
		{"an unknown field", pod("{containers: [{name: c, imag: i}]}"), "", []string{"pod.yaml", "spec.containers[0].imag", `did you mean "image"`}, false},
		{"an image that may not be pulled", pod(`{containers: [{name: c, image: "none:1", imagePullPolicy: Never}]}`), "", []string{"none:1", "fermata load"}, false},
		{"a pull that is refused", pod(`{containers: [{name: c, image: "none:1"}]}`), "PullImage", []string{"pull none:1: refused by the test"}, false},
		{"root where there must be none", pod(`{containers: [{name: c, image: "i:1", securityContext: {runAsNonRoot: true}}]}`), "", []string{"container c", "the image runs as root"}, false},
		{"a hostPath that is no file", pod(`{containers: [{name: c, image: "i:1"}], volumes: [{name: v, hostPath: {path: /proc, type: File}}]}`), "", []string{"volume v", "/proc", "not a File"}, false},
		{"a hostPath that is not there", pod(`{containers: [{name: c, image: "i:1"}], volumes: [{name: v, hostPath: {path: /nonexistent, type: Socket}}]}`), "", []string{"volume v", "/nonexistent"}, false},
		{"a sandbox that does not start", pod(`{containers: [{name: c, image: "i:1"}]}`), "RunPodSandbox", []string{"start pod p: refused by the test"}, false},
		{"a container that is not made", pod(`{containers: [{name: c, image: "i:1"}]}`), "CreateContainer", []string{"create container c: refused by the test", "fermata rm p"}, true},
		{"a container that does not start", pod(`{containers: [{name: c, image: "i:1"}]}`), "StartContainer", []string{"start container c: refused by the test", "fermata rm p"}, true},
		{"an init container that ends badly", pod(`{initContainers: [{name: i, image: "ends:3"}], containers: [{name: c, image: "i:1"}]}`), "", []string{"container i: ended with exit code 3", "fermata rm p"}, true},
		{"a container that ends at once", pod(`{containers: [{name: c, image: "ends:4"}]}`), "", []string{"container c: ended with exit code 4", "fermata rm p"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, address := serve(t)
			if c.fail != "" {
				f.fail[c.fail] = status.Error(codes.Internal, "refused by the test")
			}
			file, data := put(t, c.manifest)
			got := do(t, address, "", "run", "-f", file, "--data", data)
			if got.code != 1 {
				t.Errorf("status %d", got.code)
			}
			for _, want := range c.says {
				if !strings.Contains(got.errOut, want) {
					t.Errorf("%q does not say %q", got.errOut, want)
				}
			}
			_, err := os.Stat(filepath.Join(data, "u-1"))
			if kept := err == nil; kept != c.left || (len(f.pods) == 1) != c.left {
				t.Errorf("data kept: %v, pods %d; want %v", kept, len(f.pods), c.left)
			}
		})
	}
}

func TestASubPathCannotLeaveItsVolume(t *testing.T) {
	_, address := serve(t)
	outside := t.TempDir()
	volume := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(volume, "way-out")); err != nil {
		t.Fatal(err)
	}
	file, data := put(t, `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{name: c, image: "i:1", volumeMounts: [{name: v, mountPath: /v, subPath: way-out/x}]}]
  volumes: [{name: v, hostPath: {path: `+volume+`}}]
`)
	got := do(t, address, "", "run", "-f", file, "--data", data)
	if got.code != 1 || !strings.Contains(got.errOut, "subPath way-out/x") {
		t.Errorf("%+v", got)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("made outside: %v, %v", left, err)
	}
}

func TestARandomUIDIsAUUID(t *testing.T) {
	a, b := newUID(), newUID()
	if a == b || len(a) != 36 || a[14] != '4' {
		t.Errorf("%s, %s", a, b)
	}
}
