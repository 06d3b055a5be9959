package explain

import (
	"fermata/internal/pod"
)

// Tree is the node from its pods down to their processes.
type Tree struct{ Pods []PodBranch }

// PodBranch is a pod and what is of it.
type PodBranch struct {
	Record *pod.PodRecord
	// Pause is nil when none runs.
	Pause      *Process
	Containers []ContainerBranch
	// Strays are processes in the pod's own cgroup besides pause.
	Strays []*Process
}

// ContainerBranch is a container and its processes, each after its parent if that is one of them.
type ContainerBranch struct {
	Record *pod.ContainerRecord
	// Memory is the working set of its cgroup in bytes; nil when it does not run.
	Memory    *uint64
	Processes []*Process
}

// Tree looks at all there is.
func (e *Explainer) Tree() (*Tree, error) {
	seen := e.Pods.See()
	processes, err := e.look(false, seen)
	if err != nil {
		return nil, err
	}
	memory := map[string]*uint64{}
	for _, s := range e.Pods.ListContainerStats(nil) {
		if set := s.GetMemory().GetWorkingSetBytes(); set != nil {
			memory[s.GetAttributes().GetId()] = &set.Value
		}
	}
	of := map[owner][]*Process{}
	for _, p := range processes {
		if p.Role != Stranger {
			of[owner{p.Pod, p.Container}] = append(of[owner{p.Pod, p.Container}], p)
		}
	}
	t := &Tree{}
	for i := range seen {
		branch := PodBranch{Record: &seen[i].Pod}
		for _, p := range of[owner{pod: branch.Record.ID}] {
			if p.Role == Pause {
				branch.Pause = p
			} else {
				branch.Strays = append(branch.Strays, p)
			}
		}
		for j := range seen[i].Containers {
			c := &seen[i].Containers[j]
			branch.Containers = append(branch.Containers, ContainerBranch{Record: c, Memory: memory[c.ID], Processes: byParent(of[owner{c.PodID, c.ID}])})
		}
		t.Pods = append(t.Pods, branch)
	}
	return t, nil
}

// byParent puts processes after their parents, the first process's family before those of execs.
func byParent(all []*Process) []*Process {
	known := map[int]bool{}
	children := map[int][]*Process{}
	for _, p := range all {
		known[p.PID] = true
	}
	var roots []*Process
	for _, p := range all {
		switch {
		case p.Role == First:
			roots = append([]*Process{p}, roots...)
		case known[p.Parent] && p.Parent != p.PID:
			children[p.Parent] = append(children[p.Parent], p)
		default:
			roots = append(roots, p)
		}
	}
	var list []*Process
	var add func(p *Process)
	add = func(p *Process) {
		list = append(list, p)
		for _, c := range children[p.PID] {
			add(c)
		}
	}
	for _, p := range roots {
		add(p)
	}
	return list
}
