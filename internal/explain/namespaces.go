package explain

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Namespace is one and who keeps it.
type Namespace struct {
	Kind  string
	Inode uint64
	// Host says that it is the machine's, or the one the daemon runs in.
	Host bool
	// Pod and Container are whose it is alone, "" for what several share: of a pod alone, of a container alone.
	Pod, Container string
	Processes      []*Process
	Holders        []Holder
}

// Holder keeps a namespace open without being in it, or is the process that is there for that.
type Holder struct {
	What By
	// PID and FD are a process's and its descriptor's; 0 and -1 for a bind.
	PID, FD int
	// Path is a bind's.
	Path string
}

// By is what a holder is.
type By int

// The holders: the process that is there for that, a descriptor of the keeper's, a mount.
const (
	ByPause By = iota
	ByKeeper
	ByBind
)

// Which says which namespaces are asked for; the zero value for all that a process of a pod is in.
type Which struct {
	// Pod is an ID: those that its processes are in.
	Pod string
	// Inode is a namespace's.
	Inode uint64
	// PID is a process's: those that it is in.
	PID int
}

// Namespaces lists namespaces by pod, and within it by kind. Asked by inode or process, it names every process there, strangers too. NotFound: nobody
// is in such a namespace, nor holds it.
func (e *Explainer) Namespaces(which Which) ([]*Namespace, error) {
	processes, err := e.look(true, e.Pods.See())
	if err != nil {
		return nil, err
	}
	all := map[uint64]*Namespace{}
	wanted := e.wanted(which, processes)
	for _, p := range processes {
		if p.Role == Stranger && which.Inode == 0 && which.PID == 0 {
			continue
		}
		for _, kind := range Kinds {
			inode, ok := p.Namespaces[kind]
			if !ok || !wanted(inode) {
				continue
			}
			if all[inode] == nil {
				all[inode] = &Namespace{Kind: kind, Inode: inode}
			}
			all[inode].Processes = append(all[inode].Processes, p)
		}
	}
	if err := e.hold(all, which.Inode); err != nil {
		return nil, err
	}
	host := e.hostNamespaces()
	list := make([]*Namespace, 0, len(all))
	for _, n := range all {
		n.Host = host[n.Inode]
		n.settle()
		list = append(list, n)
	}
	if len(list) == 0 && which != (Which{}) {
		return nil, which.notFound(processes)
	}
	slices.SortFunc(list, compareNamespaces)
	return list, nil
}

func (w Which) notFound(processes []*Process) error {
	switch {
	case slices.ContainsFunc(processes, func(p *Process) bool { return p.PID == w.PID }):
		return errs.New(errs.PermissionDenied, "process %d: its namespaces are hidden from the daemon", w.PID)
	case w.Inode != 0:
		return errs.New(errs.NotFound, "namespace %d: nobody is in it, and nobody of fermata's holds it", w.Inode)
	case w.PID != 0:
		return errs.New(errs.NotFound, "process %d: there is none, or it is the kernel's", w.PID)
	}
	return errs.New(errs.FailedPrecondition, "namespaces of pod %s: no process of it runs", w.Pod)
}

// wanted returns what tells the namespaces that are asked for.
func (e *Explainer) wanted(which Which, processes []*Process) func(uint64) bool {
	switch {
	case which.Inode != 0:
		return func(inode uint64) bool { return inode == which.Inode }
	case which == Which{}:
		return func(uint64) bool { return true }
	}
	in := map[uint64]bool{}
	for _, p := range processes {
		if which.PID != 0 && p.PID == which.PID || which.Pod != "" && p.Pod == which.Pod {
			for _, inode := range p.Namespaces {
				in[inode] = true
			}
		}
	}
	return func(inode uint64) bool { return in[inode] }
}

// settle says whose a namespace is. A stranger in it, somebody's tool that was sent there, does not make it another's.
func (n *Namespace) settle() {
	slices.SortFunc(n.Processes, func(a, b *Process) int { return cmp.Or(rank(a.Role)-rank(b.Role), a.PID-b.PID) })
	slices.SortStableFunc(n.Holders, func(a, b Holder) int { return int(a.What - b.What) })
	if n.Host {
		return
	}
	var holders []Holder
	for i, p := range n.Processes {
		if p.Role == Stranger {
			break // and all after it
		}
		if i == 0 {
			n.Pod, n.Container = p.Pod, p.Container
		}
		if p.Role == Pause {
			holders = append(holders, Holder{What: ByPause, PID: p.PID, FD: -1})
		}
		if p.Pod != n.Pod {
			n.Pod = ""
		}
		if p.Container != n.Container {
			n.Container = ""
		}
	}
	n.Holders = append(holders, n.Holders...)
}

// rank puts strangers last.
func rank(r Role) int {
	if r == Stranger {
		return int(Other) + 1
	}
	return int(r)
}

func compareNamespaces(a, b *Namespace) int {
	kind := func(n *Namespace) int { return slices.Index(Kinds, n.Kind) }
	host := func(n *Namespace) int {
		if n.Host {
			return 1
		}
		return 0
	}
	return cmp.Or(host(a)-host(b), strings.Compare(a.Pod, b.Pod), strings.Compare(a.Container, b.Container), kind(a)-kind(b), cmp.Compare(a.Inode, b.Inode))
}

// hostNamespaces are the machine's first process's and the daemon's own.
func (e *Explainer) hostNamespaces() map[uint64]bool {
	all := map[uint64]bool{}
	for _, process := range []string{"1", "self"} {
		for _, inode := range namespacesAt(filepath.Join(e.Proc, process)) {
			all[inode] = true
		}
	}
	return all
}

// hold finds what holds namespaces besides the processes in them. One that nobody is in any more is added if it is the one asked for.
func (e *Explainer) hold(all map[uint64]*Namespace, asked uint64) error {
	add := func(link string, h Holder) {
		kind, inode, ok := parseNamespace(link)
		if !ok {
			return
		}
		if all[inode] == nil && inode == asked {
			all[inode] = &Namespace{Kind: kind, Inode: inode}
		}
		if n := all[inode]; n != nil {
			n.Holders = append(n.Holders, h)
		}
	}
	keeper, err := e.Keeper()
	if err != nil {
		return err
	}
	if err := e.descriptors(keeper, func(fd int, link string) { add(link, Holder{What: ByKeeper, PID: keeper, FD: fd}) }); err != nil {
		return fmt.Errorf("look at the keeper's descriptors: %w", err)
	}
	mounts, err := os.ReadFile(filepath.Join(e.Proc, "1", "mountinfo"))
	if err != nil { // not ours to look at: the daemon's own mounts are mostly the same
		mounts, err = os.ReadFile(filepath.Join(e.Proc, "self", "mountinfo"))
	}
	if err != nil {
		return fmt.Errorf("look for binds of namespaces: %w", err)
	}
	for line := range strings.Lines(string(mounts)) { // 36 35 0:4 net:[4026532281] /run/netns/x rw … - nsfs nsfs rw
		if fields := strings.Fields(line); len(fields) > 4 {
			add(fields[3], Holder{What: ByBind, FD: -1, Path: fields[4]})
		}
	}
	return nil
}

// descriptors tells what a process's are; of one that has ended there are none.
func (e *Explainer) descriptors(pid int, tell func(fd int, link string)) error {
	dir := filepath.Join(e.Proc, strconv.Itoa(pid), "fd")
	f, err := os.Open(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	return linux.LinksAt(dir, names, func(name string, link []byte) {
		if fd, err := strconv.Atoi(name); err == nil {
			tell(fd, string(link))
		}
	})
}
