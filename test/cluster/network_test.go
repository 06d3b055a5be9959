package cluster

import (
	"strings"
	"testing"
)

func (w *world) network(t *testing.T) {
	addresses := func(pod string) []string {
		return strings.Fields(w.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}"))
	}
	for _, p := range w.webs(t) {
		if got := w.kubectl(t, "exec", "left", "--", "timeout", "10", "wget", "-qO-", "http://"+p.ip+"/"); !strings.Contains(got, "It works!") {
			t.Errorf("pod %s on node %s answers %q", p.name, p.node, got)
		}
	}
	// Each tells whom it sees.
	for _, name := range []string{"ear-a", "ear-b"} {
		w.apply(t, pod(name, strings.TrimPrefix(name, "ear-"), `
  - name: main
    image: BUSYBOX
    command: [sh, -c, "while :; do nc -l -p 9000 -e netstat -tn; done"]
    readinessProbe: {exec: {command: [sh, -c, "netstat -tln | grep -q :9000"]}, periodSeconds: 1, timeoutSeconds: 10}
`))
	}
	w.ready(t, "pod/ear-a", "pod/ear-b")
	for _, from := range []string{"left", "right"} {
		for _, to := range []string{"ear-a", "ear-b"} {
			own := addresses(from)
			if len(own) != 2 {
				t.Fatalf("pod %s has addresses %v", from, own)
			}
			for i, at := range addresses(to) {
				got := w.kubectl(t, "exec", from, "--", "nc", "-w", "5", at, "9000")
				// An IPv4 peer is shown as ::ffff:10.0.0.1:12345, an IPv6 one as fd00::1:12345 after a space.
				if !strings.Contains(strings.ReplaceAll(got, " ", ":"), ":"+own[i]+":") {
					t.Errorf("%s, asked at %s by %s, sees somebody else than %s:\n%s", to, at, from, own[i], got)
				}
			}
		}
	}
	w.kubectl(t, "delete", "pod", "ear-a", "ear-b", "--wait=false")
}
