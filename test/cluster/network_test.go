package cluster

import (
	"strings"
	"testing"
)

func (w *world) network(t *testing.T) {
	address := func(pod string) string { return w.kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.podIP}") }
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
			got := w.kubectl(t, "exec", from, "--", "nc", "-w", "5", address(to), "9000")
			if want := ":" + address(from) + ":"; !strings.Contains(got, want) {
				t.Errorf("%s, asked by %s, sees somebody else than %s:\n%s", to, from, want, got)
			}
		}
	}
	if got := w.kubectl(t, "get", "pod", "left", "-o", "jsonpath={.status.podIPs[*].ip}"); got != address("left") {
		t.Errorf("a pod of a cluster with IPv4 alone has addresses %s", got)
	}
	w.kubectl(t, "delete", "pod", "ear-a", "ear-b", "--wait=false")
}
