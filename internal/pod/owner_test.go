package pod

import (
	"testing"

	"fermata/internal/errs"
)

func TestOwnersOfControlGroups(t *testing.T) {
	n := newNode(t)
	req := sandboxRequest("a")
	req.Config.Labels = map[string]string{"app": "x"}
	p, c := n.start(req)
	sandbox := must[*Owner](t)(n.Owner(p.id))
	if !sandbox.Sandbox || sandbox.PID == 0 || sandbox.Labels["app"] != "x" || sandbox.Image != n.SandboxImage || sandbox.Created.IsZero() {
		t.Errorf("sandbox %+v", sandbox)
	}
	container := must[*Owner](t)(n.Owner(c.id))
	if container.Sandbox || container.PID == 0 || container.PID == sandbox.PID || container.Image == "" {
		t.Errorf("container %+v", container)
	}
	if _, err := n.Owner(p.id[:12]); !errs.Is(err, errs.NotFound) {
		t.Errorf("part of an ID: %v, want NotFound: it is no group's name", err)
	}
	if err := n.StopPodSandbox(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	if o := must[*Owner](t)(n.Owner(c.id)); o.PID != 0 {
		t.Errorf("an ended container has process %d", o.PID)
	}
}
