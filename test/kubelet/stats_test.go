package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/images"
	"fermata/internal/testkit/kubelet"
	"fermata/internal/testkit/node"
)

// What a kubelet tells of pods on fermata is what it tells of the same pods on containerd (docs/decisions/0012).
func TestFiguresAreThoseOfAContainerdNode(t *testing.T) {
	registry, err := images.Serve(t.Context())
	check(t, err)
	t.Cleanup(func() { registry.Close() })
	peer := startCounted(t, registry, node.Containerd)
	ours := startCounted(t, registry, node.Fermata)
	for _, setting := range []struct {
		name     string
		gate     bool
		answered bool
		// without are labels not compared, allowed what only one side has.
		without []string
		allowed []difference
	}{
		{"cAdvisor is answered", false, true, nil, nil},
		// containerd has fewer labels with the gate than without; ours are cAdvisor's.
		{"the gate is on", true, false, []string{"container", "cpu", "image", "name"}, withGate},
	} {
		peer.use(t, "containerd, "+setting.name, setting.gate, true) // containerd's cAdvisor always finds it
		ours.use(t, "fermata, "+setting.name, setting.gate, setting.answered)
		untilAlike(t, setting.name, func() string {
			return diff(peer.figures(t, setting.without...), ours.figures(t, setting.without...), setting.allowed)
		})
	}
	peer.use(t, "containerd", false, true)
	ours.use(t, "fermata, nothing set", false, false)
	untilAlike(t, "nothing set", func() string { return diff(peer.figures(t), ours.figures(t), withNothing) })
}

// difference is one that is known: a pattern of a series and why it is there on one side only.
type difference struct{ series, why string }

var withGate = []difference{
	{`^fermata: cadvisor container_(pressure|blkio|fs_(reads|writes)|hugetlb|spec_cpu_quota|spec_memory_reservation|ulimits)`, "containerd has no figures for them (containerd #13532)"},
	{`^fermata: cadvisor container_spec_memory_.*limit_bytes \{.* two/main`, "a limit of 0 is none, as cAdvisor has it; containerd leaves it out"},
	{`^containerd: summary one \.network\.interfaces`, "the CRI wants the default interface apart from the others; containerd repeats it"},
	{`^fermata: summary .*\.psi\.`, "containerd reads no pressure where only v1 has controllers"},
	{`^fermata: summary .*\.io\.time`, "the same"},
	{`^containerd: summary .*vailableBytes`, "containerd tells what is available where nothing is limited"},
	{`^fermata: (summary .*|resource container_)swap`, "containerd tells no use of swap where nothing is limited"},
	{`^containerd: (summary .*|resource container_)swap`, "a limit of swap is told as what is available only where there is one"},
}

// withNothing is what is missing without the gate and without an answer: names, and the network. What `kubectl top` reads is not.
var withNothing = []difference{
	{`^containerd: cadvisor container_.* \{.*image`, "cAdvisor does not know whose the group is"},
	{`^containerd: summary one \.network\.`, "the network is the pod's for cAdvisor only through the sandbox"},
	{`^containerd: summary two \.network\.`, "the same, though it is the host's"},
	{`^containerd: summary .* \.process_stats\.`, "of cAdvisor's containers"},
	{`^fermata: (summary .*|resource container_)swap`, "containerd tells no use of swap where nothing is limited"},
}

// counted is a node whose kubelet's figures are read.
type counted struct {
	*node.Node
	// answers is the socket on which cAdvisor is answered.
	answers string
	kubelet *kubelet.Kubelet
	// were are all kubelets there have been, the present one last.
	were []*kubelet.Kubelet
}

func startCounted(t *testing.T, registry *images.Registry, runtime func(context.Context, node.Options) (*node.Node, error)) *counted {
	t.Helper()
	dir, err := os.MkdirTemp("", "kf-")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	certs := filepath.Join(dir, "certs.d")
	check(t, registry.Mirrors(certs))
	answers := filepath.Join(dir, "cadvisor.sock")
	n, err := runtime(t.Context(), node.Options{Dir: dir, Registries: certs, Name: "kf", Args: []string{"--cadvisor-socket", "unix://" + answers}})
	check(t, err)
	c := &counted{Node: n, answers: answers}
	if n.Kind == "containerd" {
		c.answers = n.Socket
	}
	t.Cleanup(func() { c.end(t) })
	_, err = n.CRI.Pull(t.Context(), images.Busybox)
	check(t, err)
	return c
}

func (c *counted) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if c.kubelet != nil {
		check(t, c.kubelet.Stop())
	}
	err := c.Stop(ctx)
	for _, k := range slices.Backward(c.were) {
		err = errors.Join(err, k.Remove())
	}
	if err != nil {
		t.Errorf("stop %s: %v", c.Kind, err)
	}
}

// findRuntime shows a kubelet a socket where cAdvisor looks for containerd's, and nobody else: in a mount namespace of its own.
const findRuntime = `mount -t tmpfs tmpfs /run && mkdir /run/containerd && { test -z "$0" || ln -s "$0" /run/containerd/containerd.sock; } && exec "$@"`

// use replaces the kubelet by one with other settings; the pods run on.
func (c *counted) use(t *testing.T, name string, gate, answered bool) {
	t.Helper()
	if c.kubelet != nil {
		check(t, c.kubelet.Stop())
		c.kubelet = nil
	}
	socket := ""
	if answered {
		socket = c.answers
	}
	k, err := kubelet.Start(t.Context(), kubelet.Options{
		Dir: filepath.Join(c.Dir, "k"), Endpoint: c.Endpoint, Cgroup: "/" + filepath.Base(c.Dir),
		Config:  map[string]any{"featureGates": map[string]bool{"PodAndContainerStatsFromCRI": gate}},
		Wrapper: []string{"unshare", "-m", "sh", "-c", findRuntime, socket},
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	c.kubelet, c.were = k, append(c.were, k)
	for pod, spec := range countedPods {
		manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: " + pod + ", namespace: test}\nspec:\n" + strings.ReplaceAll(spec, "BUSYBOX", images.Busybox)
		check(t, k.Apply(pod+".yaml", manifest))
	}
}

var countedPods = map[string]string{
	"one": `
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, 'while :; do dd if=/dev/zero of=/data bs=64k count=16 2>/dev/null; sleep 1; done']
    resources: {limits: {cpu: 200m, memory: 64Mi}}
  - name: side
    image: BUSYBOX
    command: [sleep, "100000"]
    resources: {limits: {cpu: 100m, memory: 32Mi}}
`,
	"two": `
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: BUSYBOX
    command: [sleep, "100000"]
`,
}

// untilAlike asks until there is no difference: cAdvisor looks at a new group after up to 15 seconds.
func untilAlike(t *testing.T, name string, differs func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		left := differs()
		if left == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Errorf("%s:\n%s", name, left)
			return
		case <-tick.C:
		}
	}
}

// figures are the series about pods that a kubelet tells, without values: "<where> <what> {<its label keys>} <pod>/<container>".
func (c *counted) figures(t *testing.T, without ...string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for where, path := range map[string]string{"cadvisor": "/metrics/cadvisor", "resource": "/metrics/resource"} {
		text, err := c.kubelet.Get(t.Context(), path)
		check(t, err)
		for line := range strings.Lines(string(text)) {
			if s, ok := series(line, without); ok {
				all[where+" "+s] = true
			}
		}
	}
	text, err := c.kubelet.Get(t.Context(), "/stats/summary")
	check(t, err)
	var summary struct{ Pods []map[string]any }
	check(t, json.Unmarshal(text, &summary))
	for _, pod := range summary.Pods {
		name := pod["podRef"].(map[string]any)["name"].(string)
		for path := range members(pod, "") {
			all["summary "+strings.TrimSuffix(name, "-node")+" "+path] = true
		}
	}
	return all
}

var (
	sample = regexp.MustCompile(`^(\w+)\{(.*)\} \S+`)
	label  = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// series is a line of the exposition format without values; ok is false for what is not a pod's.
func series(line string, without []string) (s string, ok bool) {
	m := sample.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	labels := map[string]string{}
	for _, l := range label.FindAllStringSubmatch(m[2], -1) {
		if l[2] != "" {
			labels[l[1]] = l[2]
		}
	}
	pod, container := strings.TrimSuffix(labels["pod"], "-node"), strings.TrimSuffix(labels["container"], "POD") // the pod as a whole has either name
	if pod == "" {
		return "", false
	}
	for _, name := range without {
		delete(labels, name)
	}
	return fmt.Sprintf("%s {%s} %s/%s", m[1], strings.Join(slices.Sorted(maps.Keys(labels)), ","), pod, container), true
}

// members are the paths of all values in a JSON document.
func members(v any, path string) map[string]bool {
	all := map[string]bool{}
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			maps.Copy(all, members(inner, path+"."+key))
		}
	case []any:
		for _, inner := range v {
			maps.Copy(all, members(inner, path))
		}
	default:
		all[path] = true
	}
	return all
}

// diff lists what only one side has, without what is allowed.
func diff(containerd, fermata map[string]bool, allowed []difference) string {
	var found []string
	for _, side := range []struct {
		name        string
		have, other map[string]bool
	}{{"containerd", containerd, fermata}, {"fermata", fermata, containerd}} {
		for s := range side.have {
			line := side.name + ": " + s
			if !side.other[s] && !slices.ContainsFunc(allowed, func(d difference) bool { return regexp.MustCompile(d.series).MatchString(line) }) {
				found = append(found, line)
			}
		}
	}
	slices.Sort(found)
	return strings.Join(found, "\n")
}
