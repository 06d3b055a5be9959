package network_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"fermata/internal/network"
	"fermata/internal/network/nettest"
)

// twoInterfaces is a CNI plugin that gives a pod two interfaces, neither with an end at the host, and others that are never used.
const twoInterfaces = `#!/bin/sh
cat > /dev/null
test "$CNI_COMMAND" = ADD || exit 0
set -e
inside() { nsenter --net="$CNI_NETNS" ip "$@" >&2; }
inside link add net1 type veth peer name eth0
n=1
for name in net1 eth0; do
	inside link set $name arp off up
	inside address add 10.9.$n.7/24 dev $name
	n=$((n+1))
done
inside link add tunnel0 type veth peer name tunnel1
echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"interface":0,"address":"10.9.2.7/24"}]}'
`

// What plugins made of a pod is counted in the pod: all its interfaces, also those without an end at the host (CRI NetworkUsage.interfaces).
func TestEveryInterfaceThatPluginsMadeIsCounted(t *testing.T) {
	dir, pod := t.TempDir(), nettest.Bare(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("two", twoInterfaces)
	conf := write("10-two.conf", `{"cniVersion":"1.1.0","name":"two","type":"two"}`)
	n, err := network.Open(network.Options{
		State: t.TempDir(), Root: t.TempDir(), Instance: "counted", Subnet: "10.3.0.0/24", HostNetNS: nettest.Namespace(t),
		CNIConfDir: dir, CNIBinDirs: []string{dir}, CNICache: filepath.Join(dir, "cache"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if _, err := n.Attach(t.Context(), network.Attachment{SandboxID: "plugged", NetNS: pod}); err != nil {
		t.Fatal(err)
	}
	defer n.Detach(t.Context(), "plugged")
	if err := os.Remove(conf); err != nil { // from here on pods are the built-in network's
		t.Fatal(err)
	}
	if _, err := n.Attach(t.Context(), network.Attachment{SandboxID: "bridged", NetNS: nettest.Bare(t)}); err != nil {
		t.Fatal(err)
	}
	nettest.In(t, pod, func() {
		for packets, to := range []string{"10.9.1.9:9", "10.9.2.9:9", "10.9.2.9:9"} {
			conn, err := net.Dial("udp", to)
			if err == nil {
				_, err = conn.Write(make([]byte, 1000*(packets+1)))
				conn.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	all, err := n.Stats()
	if err != nil || len(all) != 2 || len(all["bridged"]) != 1 || all["bridged"][0].Name != "eth0" {
		t.Errorf("of all pods: %+v, %v", all, err)
	}
	one, err := n.StatsOf("plugged")
	for way, got := range map[string][]network.Counters{"in the list": all["plugged"], "alone": one} {
		if err != nil || len(got) != 2 || got[0].Name != "eth0" || got[1].Name != "net1" || got[0].TxBytes < 5000 || got[1].TxBytes < 1000 || got[1].TxBytes > 4000 {
			t.Errorf("%s: %+v, %v; want eth0 first, net1, and what each has sent", way, got, err)
		}
	}
	if err := n.Detach(t.Context(), "plugged"); err != nil {
		t.Fatal(err)
	}
	if one, err := n.StatsOf("plugged"); err != nil || one != nil {
		t.Errorf("of a pod that is gone: %+v, %v", one, err)
	}
}
