package cgroup

import (
	"fmt"
	"slices"
)

// Children lists the names of the groups directly below this one, in whichever hierarchy they are, sorted. A group that does not exist has none.
func (g *Group) Children() ([]string, error) {
	if g.err != nil {
		return nil, g.err
	}
	var all []string
	for _, h := range g.in {
		names, err := h.children(g.rel)
		if err != nil {
			return nil, fmt.Errorf("list control groups below %s: %w", g.Path(), err)
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
