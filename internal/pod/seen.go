package pod

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
)

// Seen is a pod as its record says it is at one moment, with its containers, oldest first.
type Seen struct {
	Pod        PodRecord
	Containers []ContainerRecord
}

// See returns the visible pods, oldest first, for who explains them. From memory only. What the records point to is not to be changed.
func (m *Manager) See() []Seen {
	var all []Seen
	for _, p := range m.allPods() {
		p.mu.Lock()
		if p.visible {
			s := Seen{Pod: p.record}
			for _, c := range p.containers {
				if c.visible {
					s.Containers = append(s.Containers, c.record)
				}
			}
			all = append(all, s)
		}
		p.mu.Unlock()
	}
	for _, s := range all {
		slices.SortFunc(s.Containers, func(a, b ContainerRecord) int { return a.Created.Compare(b.Created) })
	}
	slices.SortFunc(all, func(a, b Seen) int {
		return cmp.Or(a.Pod.Created.Compare(b.Pod.Created), strings.Compare(a.Pod.ID, b.Pod.ID))
	})
	return all
}

// Layers are the directories of a container's root file system: what it wrote, and its image's, topmost first.
func (m *Manager) Layers(id string) (upper string, lowers []string, err error) {
	c, err := m.findContainer(id)
	if err != nil {
		return "", nil, err
	}
	r := c.snapshot()
	return filepath.Join(m.containerDir(&r), "upper"), slices.Clone(r.Lowers), nil
}
