package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/nettest"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// plugin is a CNI plugin that writes down what it is asked, and does as a file beside it says: nothing (the answer), "fail" or "hang".
const plugin = `#!/bin/sh
dir=%[1]s
conf=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID ${CNI_NETNS:+netns} $CNI_ARGS" >> $dir/asked
echo "$conf" > $dir/conf.$CNI_COMMAND
case "$(cat $dir/how.$CNI_COMMAND 2>/dev/null)" in
fail) echo '{"cniVersion":"1.1.0","code":11,"msg":"no address left","details":"pool of 3"}'; exit 1;;
mute) echo 'segmentation fault' >&2; exit 139;;
hang) sleep 1000 & echo $! > $dir/child; wait;;
empty) echo '{"cniVersion":"1.1.0","ips":[]}'; exit;;
esac
test "$CNI_COMMAND" = ADD || exit 0
echo '{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"'$CNI_NETNS'"},{"name":"net1","sandbox":"'$CNI_NETNS'"}],
"ips":[{"interface":1,"address":"10.9.0.7/24","gateway":"10.9.0.1"},{"interface":1,"address":"fd09::7/64"},{"interface":2,"address":"10.8.0.7/24"}]}'
`

const conflist = `{"cniVersion":"1.1.0","name":"recorded","plugins":[{"type":"recorder","capabilities":{"portMappings":true,"io.kubernetes.cri.pod-annotations":true}}]}`

// host is a directory with everything.
type host struct {
	t   *testing.T
	dir string
	ns  *linux.FD
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	for _, d := range []string{"conf", "bin"} {
		h.check(os.Mkdir(filepath.Join(h.dir, d), 0o755))
	}
	h.install()
	h.write("conf/10-recorded.conflist", conflist)
	h.ns = nettest.Namespace(t)
	t.Cleanup(func() { // a failed test leaves names
		names, _ := filepath.Glob(h.dir + "/netns/*")
		for _, n := range names {
			linux.Unmount(n)
		}
	})
	return h
}

func (h *host) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) write(name, text string) {
	h.t.Helper()
	h.check(os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o755))
}

// install puts the plugin where it is looked for; uninstall takes it away.
func (h *host) install()   { h.write("bin/recorder", fmt.Sprintf(plugin, h.dir)) }
func (h *host) uninstall() { h.check(os.Remove(filepath.Join(h.dir, "bin/recorder"))) }

// how tells the plugin what to do when it is asked for verb.
func (h *host) how(verb, what string) { h.write("how."+verb, what) }

// asked is what the plugin was asked since the last time: "ADD one netns", …
func (h *host) asked() string {
	b, _ := os.ReadFile(filepath.Join(h.dir, "asked"))
	os.Remove(filepath.Join(h.dir, "asked"))
	var lines []string
	for line := range strings.Lines(string(b)) {
		request, _, _ := strings.Cut(line, " Ignore") // without the arguments
		lines = append(lines, strings.TrimSpace(request))
	}
	return strings.Join(lines, ",")
}

func (h *host) open() *Plugins {
	h.t.Helper()
	p, err := Open(Options{
		ConfDir: h.dir + "/conf", BinDirs: []string{h.dir + "/bin"}, Cache: h.dir + "/cache", Dir: h.dir + "/records", NetNSDir: h.dir + "/netns",
		Instance: "test", Log: slog.New(slog.DiscardHandler),
	})
	h.check(err)
	h.t.Cleanup(func() { p.Close() })
	return p
}

func (h *host) attachment(id string) endpoint.Attachment {
	return endpoint.Attachment{
		SandboxID: id, NetNS: h.ns, PodName: "web", PodNamespace: "default", PodUID: "u1", Annotations: map[string]string{"a": "b"},
		Ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080, HostIP: netip.MustParseAddr("127.0.0.1")}, {ContainerPort: 81}},
	}
}

// nothing fails when something of any pod is left.
func (h *host) nothing(p *Plugins) {
	h.t.Helper()
	for _, pattern := range []string{"records/*", "netns/*", "cache/results/*"} {
		if left, _ := filepath.Glob(filepath.Join(h.dir, pattern)); len(left) > 0 {
			h.t.Errorf("left: %v", left)
		}
	}
	if d := p.Debts(); len(d) > 0 {
		h.t.Errorf("owed: %+v", d)
	}
}

func TestAPodIsConnectedAndDisconnected(t *testing.T) {
	h := newHost(t)
	p := h.open()
	r, err := p.Attach(t.Context(), h.attachment("one"))
	h.check(err)
	if len(r.IPs) != 2 || r.IPs[0].String() != "10.9.0.7" || r.IPs[1].String() != "fd09::7" || r.Interface != "eth0" || len(r.Gateways) != 1 {
		t.Errorf("result %+v: want the addresses of eth0 only", r)
	}
	raw, err := os.ReadFile(filepath.Join(h.dir, "asked"))
	h.check(err)
	if want := "ADD one netns IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=one;K8S_POD_UID=u1\n"; string(raw) != want {
		t.Errorf("asked %q, want %q", raw, want)
	}
	h.asked()
	conf, err := os.ReadFile(filepath.Join(h.dir, "conf.ADD"))
	h.check(err)
	for _, want := range []string{`"portMappings":[{"containerPort":80,"hostIP":"127.0.0.1","hostPort":8080,"protocol":"tcp"}]`, `"io.kubernetes.cri.pod-annotations":{"a":"b"}`} {
		if !strings.Contains(string(conf), want) {
			t.Errorf("configuration %s, want %s in it", conf, want)
		}
	}
	if again, err := p.Attach(t.Context(), h.attachment("one")); err != nil || again.IPs[0] != r.IPs[0] || h.asked() != "" {
		t.Errorf("attached again: %+v, %v", again, err)
	}
	h.check(p.Close())
	p = h.open() // another daemon
	if again, err := p.Attach(t.Context(), h.attachment("one")); err != nil || again.IPs[0] != r.IPs[0] || h.asked() != "" {
		t.Errorf("attached again by the next daemon: %+v, %v", again, err)
	}
	h.write("conf/10-recorded.conflist", strings.Replace(conflist, "recorded", "another", 1)) // of no concern to a pod that is connected
	h.check(p.Detach(t.Context(), "one"))
	if got := h.asked(); got != "DEL one netns" {
		t.Errorf("asked %q", got)
	}
	if conf, _ := os.ReadFile(filepath.Join(h.dir, "conf.DEL")); !strings.Contains(string(conf), `"prevResult"`) || !strings.Contains(string(conf), `"name":"recorded"`) {
		t.Errorf("DEL was given %s, want the ADD's result and network", conf)
	}
	h.check(p.Detach(t.Context(), "one"))
	h.nothing(p)
}

func TestAFailedADDIsUndoneAndSaysWhy(t *testing.T) {
	for _, c := range []struct{ name, how, want string }{
		{"the plugin refuses", "fail", `attach one: network recorded: plugin type="recorder" failed (add): no address left; pool of 3`},
		{"the plugin crashes", "mute", `plugin type="recorder" failed (add): exit status 139: segmentation fault`},
		{"the plugin gives no address", "empty", "gave interface eth0 no address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			p := h.open()
			h.how("ADD", c.how)
			if _, err := p.Attach(t.Context(), h.attachment("one")); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if got := h.asked(); got != "ADD one netns,DEL one netns" {
				t.Errorf("asked %q", got)
			}
			h.nothing(p)
		})
	}
}

func TestAnADDWithoutItsPluginOwesUntilThePluginIsThere(t *testing.T) {
	h := newHost(t)
	p := h.open()
	h.uninstall()
	if _, err := p.Attach(t.Context(), h.attachment("one")); err == nil || !strings.Contains(err.Error(), `failed to find plugin "recorder"`) {
		t.Errorf("error %v", err)
	}
	if d := p.Debts(); len(d) != 1 { // an earlier plugin of the list may have taken an address
		t.Errorf("debts %+v", d)
	}
	h.install()
	h.check(p.Pay(t.Context()))
	h.nothing(p)
}

func TestAPluginThatHangsIsKilledWithAllItStarted(t *testing.T) {
	h := newHost(t)
	p := h.open()
	h.how("ADD", "hang")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for { // until it has started its child
			if b, err := os.ReadFile(filepath.Join(h.dir, "child")); err == nil && strings.HasSuffix(string(b), "\n") {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := p.Attach(ctx, h.attachment("one"))
	if !errs.Is(err, errs.Canceled) || !strings.Contains(err.Error(), `plugin type="recorder" failed (add): did not answer for`) {
		t.Errorf("error %v", err)
	}
	child, err := os.ReadFile(filepath.Join(h.dir, "child"))
	h.check(err)
	for { // the kernel takes its time
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			break
		}
		time.Sleep(time.Millisecond)
	}
	h.nothing(p)
}

func TestADELThatFailsIsADebtUntilThePluginIsBack(t *testing.T) {
	for _, c := range []struct {
		name        string
		break_, fix func(h *host)
		says        string
	}{
		{"the plugin refuses", func(h *host) { h.how("DEL", "fail") }, func(h *host) { h.how("DEL", "") }, `plugin type="recorder" failed (delete): no address left`},
		{"the plugin is gone", (*host).uninstall, (*host).install, `failed to find plugin "recorder"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			p := h.open()
			_, err := p.Attach(t.Context(), h.attachment("one"))
			h.check(err)
			c.break_(h)
			h.check(p.Detach(t.Context(), "one")) // nobody has to wait
			debts := p.Debts()
			if len(debts) != 1 || debts[0].SandboxID != "one" || debts[0].PodName != "web" || debts[0].Tries < 1 || !strings.Contains(debts[0].Error, c.says) {
				t.Fatalf("debts %+v", debts)
			}
			if linux.IsNamespaceFile(h.dir + "/netns/fermata-test-one") {
				t.Error("the network namespace is kept for the debt's sake")
			}
			h.check(p.Close())
			p = h.open() // the next daemon owes it too
			if err := p.Pay(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("paid to a plugin that is away: %v", err)
			}
			c.fix(h)
			h.asked()
			h.check(p.Pay(t.Context()))
			if got := h.asked(); !strings.HasPrefix(got, "DEL one") || strings.Contains(got, "netns") {
				t.Errorf("asked %q, want a DEL without a namespace", got)
			}
			h.nothing(p)
		})
	}
}

func TestADebtIsPaidByItself(t *testing.T) {
	h := newHost(t)
	p := h.open()
	_, err := p.Attach(t.Context(), h.attachment("one"))
	h.check(err)
	h.how("DEL", "fail")
	h.check(p.Detach(t.Context(), "one"))
	h.how("DEL", "")
	for len(p.Debts()) > 0 { // the first pause is a second
		time.Sleep(5 * time.Millisecond)
	}
	h.nothing(p)
}

func TestReconcilingDetachesTheGoneAndTellsThePluginsWhoIsThere(t *testing.T) {
	h := newHost(t)
	p := h.open()
	for _, id := range []string{"alive", "dead"} {
		_, err := p.Attach(t.Context(), h.attachment(id))
		h.check(err)
	}
	h.write("netns/fermata-test-stray", "")
	h.write("netns/fermata-other-stray", "")
	h.asked()
	live := func(id string) bool { return id == "alive" }
	examined, err := p.Examine(live)
	if err != nil || len(examined) != 2 || h.asked() != "" {
		t.Errorf("examined: %q, %v", examined, err)
	}
	found, err := p.Reconcile(t.Context(), live)
	if err != nil || len(found) != 2 || !strings.Contains(found[0].What, "attachment of dead") || !strings.Contains(found[1].What, "fermata-test-stray") {
		t.Errorf("found %q, %v", found, err)
	}
	if got := h.asked(); got != "DEL dead netns,GC" {
		t.Errorf("asked %q", got)
	}
	var told struct {
		Attachments []map[string]string `json:"cni.dev/valid-attachments"`
	}
	conf, err := os.ReadFile(filepath.Join(h.dir, "conf.GC"))
	h.check(errors.Join(err, json.Unmarshal(conf, &told)))
	if len(told.Attachments) != 1 || told.Attachments[0]["containerID"] != "alive" {
		t.Errorf("told the plugins of %v", told.Attachments)
	}
	if _, err := os.Stat(h.dir + "/netns/fermata-other-stray"); err != nil {
		t.Errorf("another instance's name: %v", err)
	}
	h.check(os.Remove(h.dir + "/netns/fermata-other-stray"))
	h.check(p.Detach(t.Context(), "alive"))
	h.nothing(p)
}

func TestTheConfigurationIsReadWhenItIsNeeded(t *testing.T) {
	h := newHost(t)
	p := h.open()
	status := func() string {
		p.statusUntil = time.Time{}
		if err := p.Status(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	}
	if got := status(); got != "" || !p.Installed() {
		t.Errorf("installed: %q", got)
	}
	h.check(os.RemoveAll(h.dir + "/conf"))
	if got := status(); !strings.Contains(got, "no network is configured") || p.Installed() {
		t.Errorf("without its directory: %q", got)
	}
	h.check(os.Mkdir(h.dir+"/new", 0o755))
	h.write("new/20-late.conf", `{"cniVersion":"1.0.0","name":"late","type":"recorder"}`)
	h.write("new/30-later.conflist", "{")
	h.write("new/readme.txt", "{")
	h.check(os.Symlink("new", h.dir+"/conf"))
	if got := status(); got != "" {
		t.Errorf("another directory under its name: %q", got)
	}
	if list, err := p.network(); err != nil || list.Name != "late" {
		t.Errorf("network %v, %v: want the first by name", list, err)
	}
	h.write("new/10-broken.conflist", `{"name": "broken"`)
	if got := status(); !strings.Contains(got, "10-broken.conflist") {
		t.Errorf("a first file that is broken: %q", got)
	}
	h.write("new/10-broken.conflist", strings.Replace(conflist, "recorder", "absent", 1))
	if got := status(); !strings.Contains(got, `failed to find plugin "absent"`) {
		t.Errorf("a plugin that is not there: %q", got)
	}
	h.write("new/10-broken.conflist", conflist)
	h.how("STATUS", "fail")
	if got := status(); !strings.Contains(got, "plugin recorder: STATUS: no address left") {
		t.Errorf("a plugin that is not ready: %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(conflist), true)
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"late","type":"recorder"}`), false)
	f.Add([]byte(`{"plugins":[null]}`), true)
	f.Fuzz(func(t *testing.T, raw []byte, isList bool) {
		if list, err := parse(raw, isList); err == nil && (list == nil || len(list.Plugins) == 0) {
			t.Errorf("parsed to %+v", list)
		}
	})
}
