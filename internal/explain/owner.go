package explain

import (
	"path"
	"strings"

	"fermata/internal/pod"
)

type pods = pod.Seen

// owner is whose a cgroup is.
type owner struct{ pod, container string }

// owners find whose a process is, by its cgroup: whatever a container's process makes of its namespaces and parents, it stays there.
type owners struct {
	cgroups map[string]owner
	first   map[int]owner // a pause's or a container's first process
}

func ownersOf(seen []pods) *owners {
	o := &owners{map[string]owner{}, map[int]owner{}}
	for i := range seen {
		p := &seen[i].Pod
		o.cgroups[p.Cgroup] = owner{pod: p.ID}
		if p.State == pod.Ready {
			o.first[p.Pause.PID] = owner{pod: p.ID}
		}
		for j := range seen[i].Containers {
			c := &seen[i].Containers[j]
			o.cgroups[c.Cgroup] = owner{p.ID, c.ID}
			if c.State == pod.StateRun {
				o.first[c.Process.PID] = owner{p.ID, c.ID}
			}
		}
	}
	delete(o.cgroups, "")
	delete(o.first, 0)
	return o
}

// ownFirst says whose a process is if it is one that the records name: it runs, or its end would have been told.
func (o *owners) ownFirst(p *Process) bool {
	found, ok := o.first[p.PID]
	if !ok {
		return false
	}
	p.Pod, p.Container, p.Role = found.pod, found.container, First
	if found.container == "" {
		p.Role = Pause
	}
	return true
}

// own says whose a process is by the groups in its /proc/PID/cgroup.
func (o *owners) own(p *Process, cgroups string) {
	if found, ok := o.find(cgroups); ok {
		p.Pod, p.Container, p.Role = found.pod, found.container, Other
	}
}

// find looks for a group of /proc/PID/cgroup, or one that it lies below. Any hierarchy will do: a group has the same path in all, and one that was
// moved in some (a controller that is missing) is still in the others.
func (o *owners) find(lines string) (owner, bool) {
	before := ""
	for line := range strings.Lines(lines) {
		_, rest, _ := strings.Cut(line, ":")
		_, group, ok := strings.Cut(strings.TrimSuffix(rest, "\n"), ":")
		if !ok || group == before {
			continue
		}
		before = group
		for at := group; len(at) > 1; at = path.Dir(at) {
			if found, ok := o.cgroups[at]; ok {
				return found, true
			}
		}
	}
	return owner{}, false
}
