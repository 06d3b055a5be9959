package kubelet

import "testing"

func TestPods(t *testing.T) {
	w := start(t, nil)
	w.pod(t, "web", `
containers:
- name: web
  image: BUSYBOX
  command: [sleep, "1000"]
`)
	p := w.ready(t, "web")
	t.Logf("%+v", p)
}
