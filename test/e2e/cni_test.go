package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
	"fermata/internal/testkit/tools"
)

// recorder is a CNI plugin that gives every pod another address and writes down what it is asked.
const recorder = `#!/bin/sh
cat > /dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID" >> %[1]s/asked
test "$CNI_COMMAND" = ADD || exit 0
n=$(od -An -N2 -tu2 /dev/urandom)
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"interface":0,"address":"10.217.'$((n/256))'.'$((n%%256))'/16"}]}'
`

// cniDir makes a place of the daemon's CNI directories, below "cni".
func (w *world) cniDir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(w.Dir, "cni", name)
	check(t, os.MkdirAll(dir, 0o755))
	return dir
}

func (w *world) address(t *testing.T, pod string) netip.Addr {
	t.Helper()
	s, err := w.CRI.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	check(t, err)
	ip, err := netip.ParseAddr(s.GetStatus().GetNetwork().GetIp())
	check(t, err)
	return ip
}

// A network that is configured while the daemon runs is used from the next pod on; pods from before keep theirs.
func TestANetworkOfPluginsIsUsedOnceItIsThere(t *testing.T) {
	w := start(t)
	if w.Kind != "fermata" {
		t.Skip("about fermata's directories")
	}
	_, before := pod(t, w, "before")
	plugins, err := tools.Plugins(t.Context())
	check(t, err)
	check(t, os.Symlink(plugins, filepath.Join(w.cniDir(t, ""), "bin")))
	bridge := "ec" + w.Scope().Links[1][4:]
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"e2e","plugins":[{"type":"bridge","bridge":"%s","isGateway":true,
		"ipam":{"type":"host-local","ranges":[[{"subnet":"10.216.0.0/16"}]],"dataDir":"%s"}}]}`, bridge, filepath.Join(w.Dir, "ipam"))
	check(t, os.WriteFile(filepath.Join(w.cniDir(t, "conf"), "10-e2e.conflist"), []byte(conf), 0o644))
	t.Cleanup(func() { run(t, "ip", "link", "delete", bridge) })
	p, id := pod(t, w, "plugged")
	ip := w.address(t, id)
	if !netip.MustParsePrefix("10.216.0.0/16").Contains(ip) {
		t.Fatalf("address %v is not of the configured network", ip)
	}
	p.run(t, shell("server", "exec nc -ll -p 80 -e echo plugged"))
	var conn net.Conn
	eventually(t, "the pod answers", func() (bool, string) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(ip.String(), "80"), time.Second)
		return err == nil, fmt.Sprint(err)
	})
	answer := make([]byte, 7)
	if _, err := conn.Read(answer); err != nil || string(answer) != "plugged" {
		t.Errorf("the pod says %q, %v", answer, err)
	}
	conn.Close()
	stats, err := w.CRI.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id})
	check(t, err)
	if rx := stats.GetStats().GetLinux().GetNetwork().GetDefaultInterface().GetRxBytes().GetValue(); rx == 0 {
		t.Errorf("network figures %v", stats.GetStats().GetLinux().GetNetwork())
	}
	check(t, w.Kill())
	check(t, w.Restart(t.Context()))
	for _, pod := range []string{id, before} { // each by whoever connected it
		w.address(t, pod)
		check(t, w.CRI.RemovePod(t.Context(), pod))
	}
	leases, err := filepath.Glob(filepath.Join(w.Dir, "ipam/e2e/10.*"))
	if err != nil || len(leases) > 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}
	if names, _ := filepath.Glob("/run/netns/fermata-*" + id); len(names) > 0 {
		t.Errorf("names of network namespaces left: %v", names)
	}
}

// Pods stop and go while the plugin is away; what it has not given back is listed, over a restart too, until it is back.
func TestPodsGoWhileTheNetworkPluginIsAway(t *testing.T) {
	w := start(t)
	if w.Kind != "fermata" {
		t.Skip("containerd keeps such pods")
	}
	pods := atMost(50)
	dir, plugin := w.cniDir(t, ""), filepath.Join(w.cniDir(t, "bin"), "recorder")
	install := func() { check(t, os.WriteFile(plugin, fmt.Appendf(nil, recorder, dir), 0o755)) }
	install()
	conf := filepath.Join(w.cniDir(t, "conf"), "10-recorded.conf")
	check(t, os.WriteFile(conf, []byte(`{"cniVersion":"1.0.0","name":"recorded","type":"recorder"}`), 0o644))
	ids := make([]string, pods)
	inParallel(t, pods, func(ctx context.Context, i int) (err error) {
		ids[i], err = w.CRI.RunPod(ctx, cri.PodConfig("debtor", ""))
		return err
	})
	check(t, errors.Join(os.Remove(plugin), os.Remove(conf))) // the network operator was uninstalled
	began := time.Now()
	inParallel(t, pods, func(ctx context.Context, i int) error { return w.CRI.RemovePod(ctx, ids[i]) })
	took := time.Since(began)
	if took > 30*time.Second {
		t.Errorf("%d pods took %v to stop and go without their plugin", pods, took)
	}
	t.Logf("%d pods stopped and removed without their plugin in %v", pods, took.Round(time.Millisecond))
	for range 2 {
		said, err := w.Run(t.Context(), "debts")
		if rows := strings.Count(said, "test/debtor-"); err != nil || rows != pods || !strings.Contains(said, `failed to find plugin "recorder"`) {
			t.Errorf("%d debts, want %d: %v\n%s", rows, pods, err, said)
		}
		if said, err := w.Doctor(t.Context()); err == nil || !strings.Contains(said, "was not given back by its plugin") {
			t.Errorf("doctor: %v\n%s", err, said)
		}
		check(t, w.Kill())
		check(t, w.Restart(t.Context()))
	}
	install()
	if said, err := w.Run(t.Context(), "debts", "--retry"); err != nil || !strings.Contains(said, "No network plugin owes anything.") {
		t.Errorf("debts: %v\n%s", err, said)
	}
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	check(t, err)
	var added, deleted []string
	for line := range strings.Lines(string(asked)) {
		switch verb, id, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "ADD":
			added = append(added, id)
		case "DEL":
			deleted = append(deleted, id)
		}
	}
	slices.Sort(added)
	slices.Sort(deleted)
	if len(added) != pods || !slices.Equal(added, slices.Compact(deleted)) {
		t.Errorf("%d ADDs and %d DELs do not match", len(added), len(deleted))
	}
}

// inParallel does something for each of n, eight at a time.
func inParallel(t *testing.T, n int, do func(ctx context.Context, i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(t.Context(), i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}
