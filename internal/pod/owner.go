package pod

import (
	"time"

	"fermata/internal/errs"
)

// Owner is whose a control group is.
type Owner struct {
	// ID is the sandbox's or container's, by which its group is named.
	ID      string
	Sandbox bool
	// Labels and Image are as the CRI tells them; a sandbox's image is the one that stands for pause.
	Labels  map[string]string
	Image   string
	Created time.Time
	// PID is the first process, pause's of a sandbox; 0 if none runs.
	PID int
}

// Owner finds a sandbox or container by its whole ID. Unlike other questions it also finds those that no caller has been told of yet: a group is
// seen by others as soon as it is made.
func (m *Manager) Owner(id string) (*Owner, error) {
	m.mu.RLock()
	p, c := m.pods[id], m.containers[id]
	m.mu.RUnlock()
	switch {
	case p != nil:
		r := p.snapshot()
		o := &Owner{ID: id, Sandbox: true, Labels: r.Config.M.GetLabels(), Image: m.SandboxImage, Created: r.Created}
		if r.State == Ready {
			o.PID = r.Pause.PID
		}
		return o, nil
	case c != nil:
		r := c.snapshot()
		o := &Owner{ID: id, Labels: r.Config.M.GetLabels(), Image: r.ImageName, Created: r.Created}
		if r.State == StateRun {
			o.PID = r.Process.PID
		}
		return o, nil
	}
	return nil, errs.New(errs.NotFound, "find owner of control group %q: no such sandbox or container", id)
}
