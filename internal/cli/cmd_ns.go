package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var nsCommand = command{
	name: "ns", args: "[POD|NUMBER]", group: groupPods, max: 1,
	brief: "who shares which namespace, and what keeps it",
	long: `Without an argument: every namespace that a process of a pod is in. With a pod: its processes beside each other; a
column is the first process of a container, or "pause", the process that holds what the pod shares. With a number
(see "man 7 namespaces"), or with --pid: whose it is, and everybody who is in it, of a pod or not.

The same number is the same namespace. It lasts as long as somebody holds it: a process in it, a descriptor of the
keeper's, or a mount.`,
	example: "sudo fermata ns\nsudo fermata ns web\nsudo fermata ns 4026532281\nsudo fermata ns --pid 1234",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		pid := flags.Int32("pid", 0, "the namespaces of process `NUMBER` of this machine")
		return func(ctx context.Context, args []string) error {
			switch {
			case *pid != 0 && len(args) > 0:
				return misused("--pid and %s: one of them", args[0])
			case *pid < 0:
				return misused("--pid %d: there is no such process", *pid)
			case *pid > 0:
				return s.namespaces(ctx, &fermatav1.ListNamespacesRequest{Pid: *pid})
			case len(args) == 0:
				return s.namespaces(ctx, &fermatav1.ListNamespacesRequest{})
			}
			if inode, ok := namespaceNumber(args[0]); ok {
				return s.namespaces(ctx, &fermatav1.ListNamespacesRequest{Inode: inode})
			}
			return s.podNamespaces(ctx, args[0])
		}
	},
}

// namespaceNumber reads one; all that the kernel gives are above 0xEFFFFFF7 (include/linux/proc_ns.h), and no ID of a pod is all of ten digits.
func namespaceNumber(text string) (uint64, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return n, err == nil && len(text) == 10
}

// kinds of namespaces, those that pods share first.
var namespaceKinds = []string{"net", "ipc", "uts", "pid", "mnt", "cgroup", "user"}

func (s *session) listNamespaces(ctx context.Context, req *fermatav1.ListNamespacesRequest) ([]*fermatav1.Namespace, error) {
	client, err := s.fermata(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.ListNamespaces(ctx, req)
	if err != nil {
		return nil, err
	}
	return answer.Namespaces, nil
}

func (s *session) namespaces(ctx context.Context, req *fermatav1.ListNamespacesRequest) error {
	list, err := s.listNamespaces(ctx, req)
	if err != nil {
		return err
	}
	if done, err := s.structured(&fermatav1.ListNamespacesResponse{Namespaces: list}, ""); done {
		return err
	}
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	if req.Inode != 0 {
		return s.namespaceOf(v, list[0])
	}
	if req.Pid != 0 {
		fmt.Fprintln(s.Stdout, v.whoseProcess(list, req.Pid))
	}
	t := newTable("POD", "CONTAINER", "KIND", "NAMESPACE", "HELD BY", "PROCESSES")
	for _, n := range list {
		pod, container := v.owner(n)
		t.add(pod, container, n.Kind, fmt.Sprint(n.Inode), heldBy(n), s.processList(n.Processes))
	}
	return t.print(s.Stdout)
}

// namespaceOf shows one, answer first.
func (s *session) namespaceOf(v *view, n *fermatav1.Namespace) error {
	pod, container := v.owner(n)
	whose := pod + "'s"
	switch {
	case n.Host:
		whose = "the host's"
	case pod == severalPods:
		whose = "shared by several pods"
	case pod == "":
		whose = "of no pod"
	case container != "":
		whose = pod + "/" + container + "'s"
	}
	fmt.Fprintf(s.Stdout, "%s namespace %d is %s; held by: %s\n", n.Kind, n.Inode, whose, or(heldBy(n), "nothing but the processes in it"))
	if len(n.Processes) == 0 {
		return nil
	}
	t := newTable("PID", "PROCESS", "POD", "CONTAINER")
	for _, p := range n.Processes {
		t.add(fmt.Sprint(p.Pid), p.Name, v.podNamed(p.PodId), v.containerNamed(p.ContainerId))
	}
	return t.print(s.Stdout)
}

const severalPods = "(several)"

// owner names whose a namespace is.
func (v *view) owner(n *fermatav1.Namespace) (pod, container string) {
	switch {
	case n.Host:
		return "(host)", ""
	case n.PodId == "" && slices.ContainsFunc(n.Processes, func(p *fermatav1.Process) bool { return p.PodId != "" }):
		return severalPods, ""
	}
	return v.podNamed(n.PodId), v.containerNamed(n.ContainerId)
}

// podNamed is the name of a pod by its whole ID; the ID's beginning of one that was removed meanwhile.
func (v *view) podNamed(id string) string {
	for _, p := range v.pods {
		if p.Id == id {
			return podName(p)
		}
	}
	return short(id)
}

func (v *view) containerNamed(id string) string {
	for _, c := range v.containers {
		if c.Id == id {
			return c.GetMetadata().GetName()
		}
	}
	return short(id)
}

// whoseProcess says what a process is.
func (v *view) whoseProcess(list []*fermatav1.Namespace, pid int32) string {
	for _, n := range list {
		for _, p := range n.Processes {
			switch {
			case p.Pid != pid:
			case p.Role == fermatav1.Process_STRANGER:
				return fmt.Sprintf("process %d (%s) is of no pod", pid, p.Name)
			case p.Role == fermatav1.Process_PAUSE:
				return fmt.Sprintf("process %d (%s) is pod %s's pause", pid, p.Name, v.podNamed(p.PodId))
			case p.ContainerId == "":
				return fmt.Sprintf("process %d (%s) is pod %s's", pid, p.Name, v.podNamed(p.PodId))
			case p.Role == fermatav1.Process_FIRST:
				return fmt.Sprintf("process %d (%s) is the first of container %s of pod %s", pid, p.Name, v.containerNamed(p.ContainerId), v.podNamed(p.PodId))
			default:
				return fmt.Sprintf("process %d (%s) is of container %s of pod %s", pid, p.Name, v.containerNamed(p.ContainerId), v.podNamed(p.PodId))
			}
		}
	}
	return fmt.Sprintf("process %d has ended", pid)
}

func heldBy(n *fermatav1.Namespace) string {
	var all []string
	for _, h := range n.Holders {
		switch h := h.Holder.(type) {
		case *fermatav1.NamespaceHolder_Pause:
			all = append(all, "pause")
		case *fermatav1.NamespaceHolder_Keeper:
			all = append(all, fmt.Sprintf("keeper (fd %d)", h.Keeper.Number))
		case *fermatav1.NamespaceHolder_Bind:
			all = append(all, h.Bind)
		}
	}
	return strings.Join(all, ", ")
}

// shownProcesses is how many a cell of a table has.
const shownProcesses = 3

func (s *session) processList(all []*fermatav1.Process) string {
	var names []string
	for i, p := range all {
		if i == shownProcesses && s.output != "wide" && len(all) > shownProcesses+1 {
			names = append(names, fmt.Sprintf("and %d more", len(all)-i))
			break
		}
		names = append(names, fmt.Sprintf("%s (%d)", p.Name, p.Pid))
	}
	return strings.Join(names, ", ")
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// member is a pause or a container's first process and the namespaces it is in, by kind.
type member struct {
	Name       string            `json:"name"`
	PID        int32             `json:"pid"`
	Namespaces map[string]string `json:"namespaces"`
}

// podNamespaces shows a pod's processes beside each other.
func (s *session) podNamespaces(ctx context.Context, name string) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	p, err := v.pod(name)
	if err != nil {
		return err
	}
	list, err := s.listNamespaces(ctx, &fermatav1.ListNamespacesRequest{PodId: p.Id})
	if err != nil {
		return err
	}
	members, host := v.members(p.Id, list)
	if done, err := s.structured(members, ""); done {
		return err
	}
	heads, pids := []string{"NAMESPACE"}, []string{"(pid)"}
	for _, m := range members {
		heads, pids = append(heads, strings.ToUpper(m.Name)), append(pids, fmt.Sprint(m.PID))
	}
	t := newTable(append(heads, "WHOSE", "HELD BY")...)
	t.add(pids...)
	for _, kind := range namespaceKinds {
		row, held := []string{kind}, ""
		for _, m := range members {
			row = append(row, m.Namespaces[kind])
		}
		for _, n := range list {
			if n.Kind == kind && held == "" {
				held = heldBy(n)
			}
		}
		t.add(append(row, whose(kind, members, host[kind]), held)...)
	}
	return t.print(s.Stdout)
}

// members are a pod's pause and its containers' first processes, and the host's namespaces among theirs, by kind.
func (v *view) members(podID string, list []*fermatav1.Namespace) (all []member, host map[string]string) {
	at, host := map[int32]int{}, map[string]string{}
	for _, n := range list {
		if n.Host {
			host[n.Kind] = fmt.Sprint(n.Inode)
		}
		for _, p := range n.Processes {
			if p.PodId != podID || p.Role != fermatav1.Process_PAUSE && p.Role != fermatav1.Process_FIRST {
				continue
			}
			if _, ok := at[p.Pid]; !ok {
				at[p.Pid] = len(all)
				all = append(all, member{Name: or(v.containerNamed(p.ContainerId), "pause"), PID: p.Pid, Namespaces: map[string]string{}})
			}
			all[at[p.Pid]].Namespaces[n.Kind] = fmt.Sprint(n.Inode)
		}
	}
	slices.SortFunc(all, func(a, b member) int { return int(a.PID - b.PID) }) // pause came first
	return all, host
}

// whose says in words what the numbers of a row mean.
func whose(kind string, members []member, host string) string {
	count := map[string]int{}
	for _, m := range members {
		count[m.Namespaces[kind]]++
	}
	switch {
	case count[host] == len(members):
		return "the host's"
	case len(members) == 1:
		return "its own"
	case len(count) == 1:
		return "the pod's, shared"
	case len(count) == len(members) && count[host] == 0:
		return "each its own"
	case len(count) == len(members):
		return "each its own, or the host's"
	}
	return "some shared"
}
