package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestHelpLeadsANewcomer(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"-h"}, {"help"}} {
		got := do(t, "", "", args...)
		if got.code != 0 || got.errOut != "" {
			t.Errorf("%q: status %d, %q", args, got.code, got.errOut)
		}
		for _, want := range []string{"fermata daemon", "fermata run -f pod.yaml", "Start here:", "--address"} {
			if !strings.Contains(got.out, want) {
				t.Errorf("%q does not say %q:\n%s", args, want, got.out)
			}
		}
	}
	for _, c := range commands() {
		for _, args := range [][]string{{c.name, "--help"}, {"help", c.name}} {
			got := do(t, "", "", args...)
			if got.code != 0 || !strings.Contains(got.out, "Usage:\n  fermata "+c.name) {
				t.Errorf("%q: status %d\n%s%s", args, got.code, got.out, got.errOut)
			}
		}
		if !strings.Contains(do(t, "", "").out, "\n  "+c.name) {
			t.Errorf("the overview lacks %s", c.name)
		}
	}
}

func TestCommandLinesThatCannotBeUnderstood(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"a mistyped command", []string{"pdos"}, []string{`"pdos"`, `did you mean "pods"`}},
		{"a mistyped flag", []string{"ps", "--al"}, []string{"--al", `did you mean "all"`}},
		{"a mistyped flag before the command", []string{"--adress=x", "ps"}, []string{`did you mean "address"`}},
		{"a flag without its value", []string{"pull", "x", "--username"}, []string{"username"}},
		{"too few arguments", []string{"pull"}, []string{"usage: fermata pull"}},
		{"too many arguments", []string{"version", "x"}, []string{"usage: fermata version"}},
		{"another output", []string{"pods", "-o", "jsn"}, []string{`"jsn"`, `did you mean "json"`}},
		{"an address that is none", []string{"--address", "tcp://x", "pods"}, []string{"unix:///"}},
		{"run without a manifest", []string{"run"}, []string{"run -f FILE"}},
		{"rm of nothing", []string{"rm"}, []string{"--all"}},
		{"a wrong setting of the daemon", []string{"daemon", "--sate", "/x"}, []string{`did you mean "state"`}},
		{"exec without a command", []string{"exec", "web", "-c", "x"}, []string{"usage: fermata exec"}},
		{"exec with a mistyped flag after the pod", []string{"exec", "web", "--sdtin", "ls"}, []string{`did you mean "stdin"`}},
		{"a key that is none", []string{"attach", "--detach-keys", "ctrl-p,ctrl-ö", "web"}, []string{`"ctrl-ö" is no key`}},
		{"a port that is none", []string{"port-forward", "web", "http"}, []string{"LOCAL:REMOTE"}},
		{"config without explain", []string{"config"}, []string{"config explain"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := do(t, "", "", c.args...)
			if got.code != 2 {
				t.Errorf("status %d, want 2", got.code)
			}
			for _, want := range c.says {
				if !strings.Contains(got.errOut, want) {
					t.Errorf("%q does not say %q", got.errOut, want)
				}
			}
		})
	}
}

func TestADaemonThatIsAwayIsExplained(t *testing.T) {
	dir, err := os.MkdirTemp("", "cli") // t.TempDir's can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	dead := filepath.Join(dir, "dead")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, c := range []struct{ name, address, says string }{
		{"no socket", "unix://" + dir + "/none", "no daemon there: start one with `sudo fermata daemon`"},
		{"a socket that nobody serves", "unix://" + dead, "the daemon has ended"},
		{"a path too long", "unix:///" + strings.Repeat("x", 200), "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := do(t, "", "", "--address", c.address, "pods")
			if got.code != 1 || !strings.Contains(got.errOut, c.says) || !strings.Contains(got.errOut, c.address) {
				t.Errorf("status %d, %q", got.code, got.errOut)
			}
		})
	}
}

func TestTheDaemonsOwnWordsAreShown(t *testing.T) {
	f, address := serve(t)
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"its cause without gRPC's framing", status.Error(codes.Internal, "list pods: disk gone"), "fermata: list pods: list pods: disk gone\n"},
		{"what it does not do", status.Error(codes.Unimplemented, "no lists"), "fermata: list pods: no lists (this daemon does not do that yet; `fermata version` shows which it is)\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.fail["ListPodSandbox"] = c.err
			if got := do(t, address, "", "pods"); got.code != 1 || got.errOut != c.want {
				t.Errorf("status %d, %q, want %q", got.code, got.errOut, c.want)
			}
		})
	}
}

func TestAnInterruptKeepsWhatElseThereIsToSay(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("create container c: %w\nThe pod is kept", context.Canceled),
		fmt.Errorf("create container c: %w\nThe pod is kept", status.Error(codes.Canceled, "context canceled")),
	} {
		if got, want := plain(err), "create container c: interrupted\nThe pod is kept"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	joined := errors.Join(status.Error(codes.NotFound, "one"), status.Error(codes.Internal, "two"))
	if got := plain(joined); got != "one\ntwo" {
		t.Errorf("%q", got)
	}
}

func TestTablesAreKubectls(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server", "client")
	f.addPod("shop", "db", "bbbb2222", "db")
	f.containers[1].State = runtimeapi.ContainerState_CONTAINER_EXITED
	f.pods[1].State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	f.containers[2].State = runtimeapi.ContainerState_CONTAINER_EXITED
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"pods", []string{"pods"}, `
NAMESPACE   NAME   READY   STATUS    AGE   POD ID
default     web    1/2     Running   60m   aaaa1111
shop        db     0/1     Stopped   60m   bbbb2222
`},
		{"pods of a namespace", []string{"pods", "-n", "shop"}, `
NAMESPACE   NAME   READY   STATUS    AGE   POD ID
shop        db     0/1     Stopped   60m   bbbb2222
`},
		{"one pod, wide", []string{"pods", "web", "-o", "wide"}, `
NAMESPACE   NAME   READY   STATUS    AGE   POD ID     IP                  HANDLER
default     web    1/2     Running   60m   aaaa1111   10.88.0.2,fd00::2   -
`},
		{"containers", []string{"ps"}, `
NAMESPACE   POD   CONTAINER   STATE     ATTEMPT   AGE   IMAGE                           CONTAINER ID
default     web   server      Running   0         90s   registry.example.com/server:1   c0-aaaa1111
`},
		{"all containers of a pod", []string{"ps", "--all", "shop/db"}, `
NAMESPACE   POD   CONTAINER   STATE    ATTEMPT   AGE   IMAGE                       CONTAINER ID
shop        db    db          Exited   0         90s   registry.example.com/db:1   c0-bbbb2222
`},
		{"status", []string{"info"}, `
CONDITION      STATUS   REASON          MESSAGE
RuntimeReady   True     -               -
NetworkReady   False    BridgeMissing   bridge fermata0 is gone
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := do(t, address, "", c.args...)
			if got.code != 0 || "\n"+got.out != c.want {
				t.Errorf("status %d\n%s%s\nwant%s", got.code, got.out, got.errOut, c.want)
			}
		})
	}
}

func TestAPodIsSummedUpInAWord(t *testing.T) {
	const created, running, exited = runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED
	one := func(name, role string, state runtimeapi.ContainerState) *runtimeapi.Container {
		return &runtimeapi.Container{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Labels: map[string]string{"fermata.local/role": role}, State: state,
		}
	}
	for _, c := range []struct {
		name          string
		stopped       bool
		containers    []*runtimeapi.Container
		ready, status string
	}{
		{"no container yet", false, nil, "0/0", "Empty"},
		{"an init container runs", false, []*runtimeapi.Container{one("i", "init", running)}, "0/0", "Init"},
		{"an init container ended, and nothing came after it", false, []*runtimeapi.Container{one("i", "init", exited)}, "0/0", "Init"},
		{"all run", false, []*runtimeapi.Container{one("i", "init", exited), one("a", "main", running), one("b", "sidecar", running)}, "2/2", "Running"},
		{"one of two runs", false, []*runtimeapi.Container{one("a", "", running), one("b", "", exited)}, "1/2", "Running"},
		{"the newest of a name counts", false, []*runtimeapi.Container{one("a", "", exited), one("a", "", running)}, "1/1", "Running"},
		{"made and not started", false, []*runtimeapi.Container{one("a", "", created)}, "0/1", "Created"},
		{"all ended", false, []*runtimeapi.Container{one("a", "", exited)}, "0/1", "Exited"},
		{"stopped", true, []*runtimeapi.Container{one("a", "", exited)}, "0/1", "Stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &runtimeapi.PodSandbox{}
			if c.stopped {
				p.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			}
			if ready, status := podState(p, c.containers); ready != c.ready || status != c.status {
				t.Errorf("%s %s, want %s %s", ready, status, c.ready, c.status)
			}
		})
	}
}

func TestEmptyListsSaySo(t *testing.T) {
	_, address := serve(t)
	for command, want := range map[string]string{"pods": "No pods found.\n", "ps": "No containers found.\n", "images": "No images found.\n"} {
		if got := do(t, address, "", command); got.code != 0 || got.out != "" || got.errOut != want {
			t.Errorf("%s: %+v", command, got)
		}
	}
}

func TestStructuredOutput(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server")
	f.addImage("registry.example.com/web:1", "sha256:feed")
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"pods as JSON", []string{"pods", "-o", "json"}, []string{`"id": "aaaa1111"`, `"name": "web"`}},
		{"pods as YAML", []string{"-o", "yaml", "pods"}, []string{"items:\n- createdAt:", "name: web"}},
		{"containers as JSON", []string{"ps", "-o", "json"}, []string{`"podSandboxId": "aaaa1111"`}},
		{"images as YAML", []string{"images", "-o", "yaml"}, []string{"- registry.example.com/web:1"}},
		{"a pod, with what only verbose tells", []string{"inspect", "web"}, []string{`"ip": "10.88.0.2"`, fmt.Sprintf("\"info\": {\n    \"pid\": %d", os.Getpid())}},
		{"a container", []string{"inspect", "server"}, []string{`"id": "c0-aaaa1111"`, fmt.Sprintf(`"pid": %d`, os.Getpid())}},
		{"an image", []string{"inspect", "registry.example.com/web:1", "-o", "yaml"}, []string{"id: sha256:feed"}},
		{"status", []string{"info", "-o", "json"}, []string{`"sandboxImage": "x"`, `"note": "plain text"`, `"RuntimeReady"`}},
		{"versions", []string{"version", "-o", "json"}, []string{`"client": "1.2.3"`, `"runtime_name": "fake"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := do(t, address, "", c.args...)
			for _, want := range c.says {
				if got.code != 0 || !strings.Contains(got.out, want) {
					t.Errorf("status %d, lacks %q:\n%s%s", got.code, want, got.out, got.errOut)
				}
			}
		})
	}
}

func TestFindingWhatANameMeans(t *testing.T) {
	f := &fake{}
	f.addPod("default", "web", "aaaa1111", "server", "client")
	f.addPod("shop", "web", "aabb2222", "till")
	f.addPod("shop", "one", "cccc3333", "only")
	f.addPod("shop", "old", "dddd4444")
	f.addPod("shop", "old", "dddd5555")
	f.pods[4].State, f.pods[4].CreatedAt = runtimeapi.PodSandboxState_SANDBOX_NOTREADY, time.Now().UnixNano()
	f.addPod("shop", "gone", "eeee6666")
	f.addPod("shop", "gone", "eeee7777")
	f.pods[5].State, f.pods[6].State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	f.pods[6].CreatedAt = time.Now().UnixNano()
	v := &view{pods: f.pods, containers: f.containers}
	for _, c := range []struct{ name, arg, want string }{
		{"namespace/name", "shop/web", "aabb2222"},
		{"a name that one pod has", "one", "cccc3333"},
		{"the beginning of an ID", "cc", "cccc3333"},
		{"a name that two namespaces have", "web", "there is default/web and shop/web"},
		{"a beginning that two IDs have", "aa", "2 IDs begin with it"},
		{"of one name the ready one", "old", "dddd4444"},
		{"of one name, none ready, the newest", "gone", "eeee7777"},
		{"nothing like it", "nine", "there is none"},
		{"a slip", "onee", `did you mean "one"`},
		{"an empty name", "", "there is none"},
	} {
		t.Run("pod: "+c.name, func(t *testing.T) {
			p, err := v.pod(c.arg)
			if got := p.GetId(); got != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%q is %q, %v; want %q", c.arg, got, err, c.want)
			}
		})
	}
	for _, c := range []struct{ name, arg, in, want string }{
		{"a name that one pod has", "client", "", "c1-aaaa1111"},
		{"pod/container", "one/only", "", "c0-cccc3333"},
		{"namespace/pod/container", "default/web/server", "", "c0-aaaa1111"},
		{"the beginning of an ID", "c0-cc", "", "c0-cccc3333"},
		{"a pod with one container", "shop/web", "", "c0-aabb2222"},
		{"a pod and -c", "default/web", "client", "c1-aaaa1111"},
		{"a pod with several", "default/web", "", "name one with -c"},
		{"a pod without", "old", "", "has no container"},
		{"-c with a name that is not there", "one", "nope", "which has: only"},
		{"two that an ID begins", "c0", "", "say which"},
		{"a slip", "clint", "", `did you mean "client"`},
	} {
		t.Run("container: "+c.name, func(t *testing.T) {
			found, err := v.container(c.arg, c.in)
			if got := found.GetId(); got != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%q is %q, %v; want %q", c.arg, got, err, c.want)
			}
		})
	}
}

func TestStopGivesEveryContainerItsGrace(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server", "client", "done")
	f.containers[2].State = runtimeapi.ContainerState_CONTAINER_EXITED
	f.containers[1].Annotations = map[string]string{"io.kubernetes.pod.terminationGracePeriod": "5"}
	got := do(t, address, "", "stop", "web")
	if got.code != 0 || got.out != "pod/web stopped\n" {
		t.Errorf("%+v", got)
	}
	if f.count("grace 30") != 1 || f.count("grace 5") != 1 || f.count("StopPodSandbox") != 1 || f.count("StopContainer") != 2 {
		t.Errorf("calls: %q", f.calls)
	}
	if got := do(t, address, "", "stop", "-t", "0s", "web/server"); got.code != 0 || got.out != "container/server stopped\n" || f.count("grace 0") != 1 {
		t.Errorf("%+v, calls %q", got, f.calls)
	}
}

func TestOneNameThatIsNotThereDoesNotKeepTheOthers(t *testing.T) {
	f, address := serve(t)
	f.addPod("default", "web", "aaaa1111", "server")
	got := do(t, address, "", "rm", "nine", "web", "ten")
	if got.code != 1 || got.out != "pod/web removed\n" || !strings.Contains(got.errOut, `"nine"`) || !strings.Contains(got.errOut, `"ten"`) {
		t.Errorf("%+v", got)
	}
	f.addPod("default", "a", "aaaa", "x")
	f.addPod("default", "b", "bbbb", "x")
	if got := do(t, address, "", "rm", "--all"); got.code != 0 || got.out != "pod/a removed\npod/b removed\n" || len(f.pods) != 0 {
		t.Errorf("%+v, left %v", got, f.pods)
	}
}

func TestRemovingAForeignPodTouchesNoDirectory(t *testing.T) {
	f, address := serve(t)
	for _, c := range []struct {
		name, dir, marker string
	}{
		{"a directory that is not named by the UID", "precious", "uid-precious"},
		{"a directory without the marker", "uid-bbbb", ""},
		{"a directory with another pod's marker", "uid-cccc", "uid-aaaa"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), c.dir)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if c.marker != "" {
				if err := os.WriteFile(filepath.Join(dir, marker), []byte(c.marker), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f.addPod("default", "p", strings.TrimPrefix(c.dir, "uid-"))
			f.pods[0].Annotations = map[string]string{"fermata.local/data": dir}
			if got := do(t, address, "", "rm", "p"); got.code != 0 {
				t.Errorf("%+v", got)
			}
			if _, err := os.Stat(dir); err != nil {
				t.Error("the directory is gone")
			}
		})
	}
}

func TestImagesArePulledLoadedSavedAndRemoved(t *testing.T) {
	f, address := serve(t)
	if got := do(t, address, "", "pull", "registry.example.com:5000/web"); got.code != 0 || !strings.HasPrefix(got.errOut, "pulled registry.example.com:5000/web in ") {
		t.Errorf("%+v", got)
	}
	if got := do(t, address, "secret\n", "pull", "x:1", "-u", "me", "--password-stdin"); got.code != 0 || f.count("auth me secret") != 1 {
		t.Errorf("%+v, %q", got, f.calls)
	}
	if got := do(t, address, "", "pull", "x:1", "-u", "me"); got.code != 2 {
		t.Errorf("a user without a password: %+v", got)
	}
	f.images["x:1"].Pinned = true
	want := `
REPOSITORY                      TAG      IMAGE ID   SIZE     PINNED
registry.example.com:5000/web   <none>   pulled     1.23MB   no
x                               1        pulled     1.23MB   yes
`
	if got := do(t, address, "", "images"); "\n"+got.out != want {
		t.Errorf("got\n%swant%s", got.out, want)
	}
	if got := do(t, address, "", "rmi", "x:1", "nine"); got.code != 1 || got.out != "image/x:1 removed\n" || !strings.Contains(got.errOut, `"nine"`) {
		t.Errorf("%+v", got)
	}
	archive := strings.Repeat("0123456789abcdef", 3*pieceSize/16) + "tail"
	if got := do(t, address, archive, "load", "--name", "local/app:1", "-"); got.code != 0 || got.out != "image/local/app:1 loaded (0123456789abc)\n" {
		t.Errorf("%+v", got)
	}
	if f.loaded.String() != archive {
		t.Errorf("%d bytes came through of %d", f.loaded.Len(), len(archive))
	}
	if got := do(t, address, "not an archive", "load", "-"); got.code != 1 || got.errOut != "fermata: load -: read archive: not a tar\n" {
		t.Errorf("%+v", got)
	}
	if got := do(t, address, "", "load", "/nonexistent/a.tar"); got.code != 1 || !strings.Contains(got.errOut, "/nonexistent/a.tar") {
		t.Errorf("%+v", got)
	}
}

func TestABrokenSaveLeavesNoFile(t *testing.T) {
	f, address := serve(t)
	f.archive = "piece|of|an archive"
	file := filepath.Join(t.TempDir(), "a.tar")
	if got := do(t, address, "", "save", "x", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != f.archive {
		t.Errorf("%q, %v", text, err)
	}
	if got := do(t, address, "", "save", "x", "-"); got.out != f.archive {
		t.Errorf("%+v", got)
	}
	f.fail["end of ExportImage"] = status.Error(codes.DataLoss, "layer gone")
	broken := filepath.Join(filepath.Dir(file), "b.tar")
	if got := do(t, address, "", "save", "x", broken); got.code != 1 || !strings.Contains(got.errOut, "layer gone") {
		t.Errorf("%+v", got)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestVersionShowsADaemonWithoutFermatasOwnService(t *testing.T) {
	_, address := serve(t)
	got := do(t, address, "", "version")
	if got.code != 0 || !strings.Contains(got.out, "client:  fermata 1.2.3") || !strings.Contains(got.out, "daemon:  fake 9.9, CRI v1") {
		t.Errorf("%+v", got)
	}
	if got := do(t, "", "", "--version"); got.out != "fermata 1.2.3\n" {
		t.Errorf("%+v", got)
	}
}

func TestConfigExplainSaysWhereAValueIsFrom(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte("\nbridge = \"br0\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := do(t, "", "", "config", "explain", "--config", file, "--root", "/r")
	lines := map[string]string{}
	for line := range strings.Lines(got.out) {
		words := strings.Fields(line)
		lines[words[0]] = strings.Join(words[1:3], " ")
	}
	for key, want := range map[string]string{
		"bridge": "br0 " + file + ":2", "root": "/r --root", "state": "/run/fermata default", "listen": "unix:///run/fermata/fermata.sock default",
	} {
		if lines[key] != want {
			t.Errorf("%s: %q, want %q\n%s", key, lines[key], want, got.errOut)
		}
	}
}

func TestABinaryWithoutADaemonSaysSo(t *testing.T) {
	if got := do(t, "", "", "daemon"); got.code != 1 || !strings.Contains(got.errOut, "without it") {
		t.Errorf("%+v", got)
	}
	if err := explainDial("a", errors.New("odd")); err.Error() != "connect to a: odd" {
		t.Error(err)
	}
}

func TestAges(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 192 * time.Second: "3m12s", 15 * time.Minute: "15m",
		5 * time.Hour: "5h", 5*time.Hour + 7*time.Minute: "5h7m", 26 * time.Hour: "26h", 50 * time.Hour: "2d2h", 24 * 9 * time.Hour: "9d",
	} {
		if got := age(now, now.Add(-d)); got != want {
			t.Errorf("age of %v = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0B", 999: "999B", 1000: "1.00kB", 1234567: "1.23MB", 12345678: "12.3MB", 999_600_000: "1.00GB", 9_999_000: "10.0MB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

// Every command and flag that the documents show exists.
func TestDocumentsShowCommandsThatExist(t *testing.T) {
	shown := regexp.MustCompile("(?m)(?:^ +|`|sudo |bin/)fermata ([a-z]+(?:-[a-z]+)*)((?: --?[a-z-]+)*)")
	for _, name := range []string{"../../README.md", "../../ARCHITECTURE.md", "../../demo/run", "../../packaging/fermata.service"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range shown.FindAllStringSubmatch(string(text), -1) {
			c := find(m[1])
			if c == nil {
				t.Errorf("%s: shows `fermata %s`, which is no command", name, m[1])
				continue
			}
			for _, flag := range strings.Fields(m[2]) {
				if !strings.Contains(c.help(), flag) {
					t.Errorf("%s: shows `fermata %s %s`, which is no flag of it", name, m[1], flag)
				}
			}
		}
	}
}
