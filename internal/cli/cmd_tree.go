package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var treeCommand = command{
	name: "tree", args: "[POD]", group: groupPods, max: 1,
	brief: "the node: pods, their pause, containers and processes",
	long: `A pod's line has its addresses and age, a container's the memory that its cgroup cannot give back at once (its
working set) and how long it has run. -o wide adds cgroups and each process's memory.`,
	example: "sudo fermata tree\nsudo fermata tree web -o wide",
	build: func(s *session, _ *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, args []string) error { return s.tree(ctx, args) }
	},
}

func (s *session) tree(ctx context.Context, args []string) error {
	answer, err := s.treeOf(ctx, args)
	if err != nil {
		return err
	}
	if done, err := s.structured(answer, ""); done {
		return err
	}
	d := &drawing{wide: s.output == "wide", now: time.Now()}
	_, err = io.WriteString(s.Stdout, d.node(answer).text(""))
	return err
}

// treeOf asks for the tree of all pods, or of the one that args name.
func (s *session) treeOf(ctx context.Context, args []string) (*fermatav1.TreeResponse, error) {
	client, err := s.fermata(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := client.Tree(ctx, &fermatav1.TreeRequest{})
	if err != nil || len(args) == 0 {
		return answer, err
	}
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	p, err := v.pod(args[0])
	if err != nil {
		return nil, err
	}
	answer.Pods = slices.DeleteFunc(answer.Pods, func(pod *fermatav1.TreePod) bool { return pod.Id != p.Id })
	return answer, nil
}

// branch is a line and what hangs on it.
type branch struct {
	line     string
	branches []*branch
}

// text draws it; before is what stands before the lines that follow.
func (b *branch) text(before string) string {
	var out strings.Builder
	out.WriteString(b.line + "\n")
	for i, child := range b.branches {
		knee, below := "├─ ", "│  "
		if i == len(b.branches)-1 {
			knee, below = "└─ ", "   "
		}
		out.WriteString(before + knee + child.text(before+below))
	}
	return out.String()
}

// drawing makes lines of what the daemon tells.
type drawing struct {
	wide bool
	now  time.Time
}

// line joins what there is.
func line(words ...string) string {
	var kept []string
	for _, w := range words {
		if w != "" {
			kept = append(kept, w)
		}
	}
	return strings.Join(kept, "  ")
}

func (d *drawing) age(nanoseconds int64) string { return age(d.now, time.Unix(0, nanoseconds)) }

func (d *drawing) node(t *fermatav1.TreeResponse) *branch {
	pods, containers := len(t.Pods), 0
	root := &branch{}
	for _, p := range t.Pods {
		containers += len(p.Containers)
		root.branches = append(root.branches, d.pod(p))
	}
	root.line = fmt.Sprintf("%s  %s, %s", t.Node, count(pods, "pod"), count(containers, "container"))
	return root
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (d *drawing) pod(p *fermatav1.TreePod) *branch {
	state := "ready"
	if !p.Ready {
		state = line("not ready", p.Reason)
	}
	b := &branch{line: line(p.Namespace+"/"+p.Name, state, strings.Join(p.Ips, ","), d.age(p.CreatedAt), d.cgroup(p.Cgroup))}
	if p.Pause != nil {
		b.branches = append(b.branches, d.process(p.Pause))
	}
	for _, stray := range p.Strays {
		b.branches = append(b.branches, d.process(stray))
	}
	for _, c := range p.Containers {
		b.branches = append(b.branches, d.container(c))
	}
	return b
}

func (d *drawing) container(c *fermatav1.TreeContainer) *branch {
	state, since, memory := c.State, d.age(c.CreatedAt), ""
	switch c.State {
	case "running":
		since, memory = d.age(c.StartedAt), bytesText(c.Memory)
	case "exited":
		state, since = line(fmt.Sprintf("exited (%d)", c.ExitCode), c.Reason), d.age(c.FinishedAt)+" ago"
	}
	b := &branch{line: line(c.Name, c.Image, state, memory, since, d.cgroup(c.Cgroup))}
	at := map[int32]*branch{}
	for _, p := range c.Processes { // each after its parent
		drawn := d.process(p)
		at[p.Pid] = drawn
		parent := at[p.Parent]
		if parent == nil || p.Parent == p.Pid {
			parent = b
		}
		parent.branches = append(parent.branches, drawn)
	}
	return b
}

func (d *drawing) process(p *fermatav1.Process) *branch {
	memory := ""
	if d.wide {
		memory = bytesText(p.Memory)
	}
	return &branch{line: line(fmt.Sprintf("%s (%d)", p.Name, p.Pid), memory)}
}

func (d *drawing) cgroup(path string) string {
	if !d.wide {
		return ""
	}
	return path
}
