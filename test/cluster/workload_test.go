package cluster

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// web is told apart from later versions of itself by VERSION. A node that takes no pods does not count for the spread.
const web = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 20
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, nodeTaintsPolicy: Honor, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: NGINX
        env: [{name: VERSION, value: "1"}]
        readinessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1, timeoutSeconds: 10}
`

// podOf is a pod of the web deployment.
type podOf struct{ name, node, ip, version, restarts string }

// webs are the pods of the web deployment that run and are to go on.
func (w *world) webs(t *testing.T) []podOf {
	t.Helper()
	lines := strings.Fields(w.kubectl(t, "get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "-o",
		`jsonpath={range .items[*]}{.metadata.name},{.spec.nodeName},{.status.podIP},{.spec.containers[0].env[0].value},`+
			`{.status.containerStatuses[0].restartCount},{.metadata.deletionTimestamp}{"\n"}{end}`))
	var pods []podOf
	for _, line := range lines {
		if f := strings.Split(line, ","); f[5] == "" {
			pods = append(pods, podOf{f[0], f[1], f[2], f[3], f[4]})
		}
	}
	return pods
}

func (w *world) deployment(t *testing.T) {
	w.apply(t, web)
	w.kubectl(t, "rollout", "status", "deployment/web", "--timeout=120s")
	on := map[string]int{}
	for _, p := range w.webs(t) {
		on[p.node]++
		for _, n := range w.Nodes {
			if n.Name == p.node && !n.PodCIDRs[0].Contains(netip.MustParseAddr(p.ip)) {
				t.Errorf("pod %s has %s, not of its node's %s", p.name, p.ip, n.PodCIDRs)
			}
		}
	}
	if on["a"] != 10 || on["b"] != 10 {
		t.Errorf("pods on nodes: %v", on)
	}
}

func (w *world) rollingUpdate(t *testing.T) {
	w.kubectl(t, "set", "env", "deployment/web", "VERSION=2")
	w.kubectl(t, "rollout", "status", "deployment/web", "--timeout=120s")
	pods := w.webs(t)
	if len(pods) != 20 {
		t.Errorf("%d pods", len(pods))
	}
	for _, p := range pods {
		if p.version != "2" || p.restarts != "0" {
			t.Errorf("%+v", p)
		}
	}
}

func (w *world) job(t *testing.T) {
	w.apply(t, `apiVersion: batch/v1
kind: Job
metadata: {name: squares}
spec:
  completions: 4
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: OnFailure
      volumes: [{name: state, emptyDir: {}}]
      containers:
      - name: main
        image: BUSYBOX
        volumeMounts: [{name: state, mountPath: /state}]
        command: [sh, -c, "[ $JOB_COMPLETION_INDEX != 3 ] || mkdir /state/again 2>/dev/null || { echo 9; exit 0; }; [ $JOB_COMPLETION_INDEX != 3 ] || exit 5; echo $((JOB_COMPLETION_INDEX*JOB_COMPLETION_INDEX))"]
`)
	w.kubectl(t, "wait", "--for=condition=Complete", "job/squares", "--timeout=120s")
	for index, want := range []string{"0", "1", "4", "9"} {
		label := fmt.Sprintf("batch.kubernetes.io/job-completion-index=%d", index)
		if got := strings.Fields(w.kubectl(t, "logs", "-l", label)); len(got) == 0 || got[len(got)-1] != want {
			t.Errorf("index %d printed %q, want %s", index, got, want)
		}
	}
}

func (w *world) daemonSet(t *testing.T) {
	w.apply(t, `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: every}
spec:
  selector: {matchLabels: {app: every}}
  template:
    metadata: {labels: {app: every}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: main
        image: NGINX
        ports: [{containerPort: 80, hostPort: 8081}]
        readinessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1, timeoutSeconds: 10}
`)
	w.kubectl(t, "rollout", "status", "daemonset/every", "--timeout=120s")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, n := range w.Nodes {
		for _, address := range n.Addresses() {
			answer, err := client.Get("http://" + netip.AddrPortFrom(address, 8081).String() + "/")
			check(t, err)
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			check(t, err)
			if !strings.Contains(string(body), "It works!") {
				t.Errorf("node %s answers %q at %s", n.Name, body, address)
			}
		}
	}
}

func (w *world) statefulSet(t *testing.T) {
	w.apply(t, `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 2
      volumes: [{name: data, emptyDir: {medium: Memory}}]
      containers:
      - name: main
        image: BUSYBOX
        command: [sh, -c, "hostname >> /data/boots; trap 'exit 1' TERM; while :; do sleep 1000 & wait; done"]
        volumeMounts: [{name: data, mountPath: /data}]
        readinessProbe: {exec: {command: [cat, /data/boots]}, periodSeconds: 1, timeoutSeconds: 10}
`)
	boots := func() string { return w.kubectl(t, "exec", "db-1", "--", "cat", "/data/boots") }
	w.kubectl(t, "rollout", "status", "statefulset/db", "--timeout=120s")
	if got := boots(); got != "db-1\n" {
		t.Errorf("the first boot wrote %q", got)
	}
	w.Kubectl(t.Context(), "exec", "db-1", "--", "kill", "1") // which may itself be killed by the container's end
	w.kubectl(t, "wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/db-1", "--timeout=60s")
	w.ready(t, "pod/db-1")
	if got := boots(); got != "db-1\ndb-1\n" {
		t.Errorf("after the container's restart there is %q", got)
	}
	w.kubectl(t, "delete", "pod/db-1")
	w.kubectl(t, "rollout", "status", "statefulset/db", "--timeout=120s")
	if got := boots(); got != "db-1\n" {
		t.Errorf("in a new pod of the name there is %q", got)
	}
}

func (w *world) drain(t *testing.T) {
	w.kubectl(t, "drain", "b", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
	w.kubectl(t, "rollout", "status", "deployment/web", "--timeout=120s")
	w.kubectl(t, "rollout", "status", "statefulset/db", "--timeout=120s")
	if got := w.kubectl(t, "get", "pods", "--field-selector=spec.nodeName=b", "-l", "app!=every", "-o", "name"); got != "" {
		t.Errorf("still on the drained node: %s", got)
	}
	for _, p := range w.webs(t) {
		if p.node != "a" || p.restarts != "0" {
			t.Errorf("%+v", p)
		}
	}
	w.kubectl(t, "uncordon", "b")
}
