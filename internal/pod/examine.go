package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Difference is something that is not as the records say.
type Difference struct {
	// Object is a pod, a container, a process, a cgroup or a path.
	Object string
	// What is wrong, and what mends it.
	What, Remedy string
	// Mend is nil where only a person can do it. Asked says that it is for a person to want: what it ends may be somebody else's.
	Mend  func(context.Context) error
	Asked bool
}

// Examine compares the records with the supervisor's processes, the cgroups and the directories. It changes nothing, and may report what another
// call is doing right now.
func (m *Manager) Examine(ctx context.Context) ([]Difference, error) {
	held, err := m.Supervisor.Processes(ctx)
	if err != nil {
		return nil, err
	}
	running := make(map[string]Running, len(held))
	for _, h := range held {
		running[h.ID] = h
	}
	found := m.examineProcesses(running)
	cgroups, err := m.examineCgroups()
	dirs, dirsErr := m.examineDirectories()
	return append(append(found, cgroups...), dirs...), errors.Join(err, dirsErr)
}

// examineProcesses looks for records without a process and processes without a record.
func (m *Manager) examineProcesses(running map[string]Running) (found []Difference) {
	resync := func(p *Pod) func(context.Context) error {
		return func(ctx context.Context) error { return m.resyncPod(ctx, p, running) }
	}
	for _, p := range m.allPods() {
		if r := p.snapshot(); r.State == Ready {
			if why := dead(r.Pause, running, p.id); why != "" {
				found = append(found, Difference{
					Object: "pause of " + podTitle(&r), What: why, Remedy: "the pod is told not ready; the kubelet makes another", Mend: resync(p),
				})
			}
		}
		for _, c := range p.allContainers() {
			r := c.snapshot()
			if why := dead(r.Process, running, c.id); why != "" && r.State == StateRun {
				found = append(found, Difference{Object: containerTitle(&r), What: why, Remedy: "it is told exited, with an unknown code", Mend: resync(p)})
			}
		}
	}
	for id, h := range running {
		if m.Knows(id) {
			continue
		}
		found = append(found, Difference{
			Object: fmt.Sprintf("process %d (%s)", h.PID, id), What: "is held for no pod or container", Remedy: "it is ended",
			Mend: func(ctx context.Context) error { return m.endStrays(ctx, map[string]Running{id: h}) },
		})
	}
	return found
}

// dead says why a process that should run does not; "" if it does.
func dead(r Recorded, running map[string]Running, id string) string {
	h, held := running[id]
	switch {
	case !held:
		return fmt.Sprintf("is recorded as process %d, and the keeper holds none", r.PID)
	case h.Exit != nil:
		return "" // its end is on its way
	}
	fd, err := linux.OpenPidfd(h.PID)
	if err != nil {
		return fmt.Sprintf("is recorded as process %d, which does not exist", h.PID)
	}
	defer fd.Close()
	if inode, err := fd.Inode(); err == nil && h.Inode != 0 && inode != h.Inode {
		return fmt.Sprintf("is recorded as process %d, which is another one now", h.PID)
	}
	return ""
}

// Knows says whether an ID is one of a pod, a container or an exec under way, whether a caller has been told of it or not.
func (m *Manager) Knows(id string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, isPod := m.pods[id]
	_, isContainer := m.containers[id]
	_, isExec := m.execs[id]
	return isPod || isContainer || isExec
}

// isID says whether a name has the form of a pod's or container's ID.
func isID(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// examineCgroups looks for cgroups named like ours that belong to nobody, below every parent that we know of.
func (m *Manager) examineCgroups() (found []Difference, err error) {
	parents := map[string]bool{m.CgroupParent: true}
	for _, p := range m.allPods() {
		parents[filepath.Dir(p.snapshot().Cgroup)] = true
	}
	delete(parents, ".") // of a pod whose record is not complete yet
	for parent := range parents {
		names, err := m.Cgroups.Group(parent).Children()
		if err != nil {
			return found, err
		}
		for _, name := range names {
			if !isID(name) || m.Knows(name) {
				continue
			}
			d, err := m.strayCgroup(filepath.Join(parent, name))
			if err != nil {
				return found, err
			}
			found = append(found, d)
		}
	}
	return found, nil
}

// strayCgroup is a cgroup that no pod or container has. Nobody but a person can tell one with processes from another runtime's, which names its own alike,
// below a parent that the kubelet has given both, or that two daemons share.
func (m *Manager) strayCgroup(path string) (Difference, error) {
	group := m.Cgroups.Group(path)
	d := Difference{Object: "cgroup " + path, What: "belongs to no pod or container", Remedy: "it is removed", Mend: inTime(group.Remove)}
	// Another runtime's is empty for the moment between its making and its first process.
	d.Asked = filepath.Dir(path) != m.CgroupParent
	pids, err := group.Processes()
	if len(pids) > 0 {
		d.What += ", and has processes"
		d.Remedy = "it may be another runtime's; asked for (fermata doctor --repair), what is in it is killed, and it is removed"
		d.Asked, d.Mend = true, inTime(func(ctx context.Context) error { return m.removeCgroup(ctx, path) })
	}
	return d, err
}

// mendLimit is how long the removal of a cgroup waits for the last of its processes.
const mendLimit = 10 * time.Second

func inTime(mend func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, mendLimit)
		defer cancel()
		return mend(ctx)
	}
}

// examineDirectories looks for directories of pods and containers that have no record, and records that were set aside.
func (m *Manager) examineDirectories() (found []Difference, err error) {
	for _, dir := range []string{filepath.Join(m.Root, "pods"), filepath.Join(m.State, "pods")} {
		more, lookErr := m.examineDirectory(dir)
		found, err = append(found, more...), errors.Join(err, lookErr)
	}
	for _, p := range m.allPods() {
		more, lookErr := m.examineDirectory(filepath.Join(m.podDir(p.id), "containers"))
		found, err = append(found, more...), errors.Join(err, lookErr)
	}
	return found, err
}

// removeUnmounted removes a directory that nobody needs; not through a mount, behind which are somebody's files.
func removeUnmounted(path string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return errs.New(errs.FailedPrecondition, "remove %s: %s is mounted there; unmount it first", path, mounts[0].Mountpoint)
	}
	return os.RemoveAll(path)
}

func (m *Manager) examineDirectory(dir string) (found []Difference, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		aside, _ := filepath.Glob(filepath.Join(path, "*.broken-*"))
		switch known := m.Knows(e.Name()); {
		case len(aside) > 0:
			found = append(found, Difference{
				Object: aside[0], What: "is a record that could not be read and was set aside",
				Remedy: "look at it; what it was of is not managed any more; then remove " + path,
			})
		case !known && isID(e.Name()):
			found = append(found, Difference{
				Object: path, What: "belongs to no pod or container", Remedy: "it is removed",
				Mend: func(context.Context) error {
					if m.Knows(e.Name()) {
						return errs.New(errs.FailedPrecondition, "remove %s: it belongs to somebody now", path)
					}
					return removeUnmounted(path)
				},
			})
		}
	}
	return found, nil
}

// podTitle is how people know a pod.
func podTitle(r *PodRecord) string {
	md := r.Config.M.GetMetadata()
	return fmt.Sprintf("pod %s/%s (%s)", md.GetNamespace(), md.GetName(), short(r.ID))
}

// containerTitle is how people know a container.
func containerTitle(r *ContainerRecord) string {
	return fmt.Sprintf("container %s (%s)", r.Config.M.GetMetadata().GetName(), short(r.ID))
}

// short is the part of an ID that people read.
func short(id string) string { return id[:min(13, len(id))] }
