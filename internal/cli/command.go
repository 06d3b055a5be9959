package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// command is one word after `fermata`.
type command struct {
	name string
	// args is what follows the flags, as usage shows it.
	args string
	// brief is a line for the overview, long the rest for the command's own help; example shows it in use.
	brief, long, example string
	// group is the overview's heading it stands under.
	group string
	// min and max number of arguments; max < 0 = any.
	min, max int
	// build declares the flags and returns what to do.
	build func(s *session, flags *pflag.FlagSet) func(ctx context.Context, args []string) error
	// raw takes the place of build in a command that reads its own flags.
	raw func(ctx context.Context, c *command, env Env, args []string) error
	// rawFlags is raw's part of the help.
	rawFlags func() string
}

const (
	groupStart  = "Start here"
	groupPods   = "Pods and containers"
	groupImages = "Images"
	groupDaemon = "The daemon"
)

// commands lists all, in the order the overview shows them.
func commands() []*command {
	return []*command{
		&daemonCommand, &runPod,
		&podsCommand, &psCommand, &logsCommand, &execCommand, &attachCommand, &portForwardCommand, &stopCommand, &rmCommand, &waitCommand,
		&whyCommand, &timelineCommand, &inspectCommand, &treeCommand, &nsCommand, &enterCommand, &diffCommand, &portCommand, &eventsCommand,
		&imagesCommand, &pullCommand, &loadCommand, &saveCommand, &rmiCommand, &historyCommand,
		&infoCommand, &doctorCommand, &debtsCommand, &versionCommand, &configCommand,
	}
}

func find(name string) *command {
	for _, c := range commands() {
		if c.name == name {
			return c
		}
	}
	return nil
}

func names() []string {
	all := []string{"help"}
	for _, c := range commands() {
		all = append(all, c.name)
	}
	return all
}

// overview is what `fermata` alone says.
func overview() string {
	var b strings.Builder
	b.WriteString(`fermata runs Kubernetes pods on this machine: a container runtime that the kubelet, crictl and this
command speak to over one socket.

  sudo fermata daemon              start it (or: systemctl start fermata)
  sudo fermata run -f pod.yaml     run a pod from a Kubernetes manifest
  sudo fermata pods                what runs
`)
	var groups []string
	for _, c := range commands() {
		if !slices.Contains(groups, c.group) {
			groups = append(groups, c.group)
		}
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "\n%s:\n", g)
		for _, c := range commands() {
			if c.group == g {
				fmt.Fprintf(&b, "  %-12s %s\n", c.name, c.brief)
			}
		}
	}
	b.WriteString(`
Flags of every command:
` + globalUsage() + `
A pod is named NAME, NAMESPACE/NAME or by the beginning of its ID; a container by its name, POD/CONTAINER or
the beginning of its ID. "fermata COMMAND --help" says more.
`)
	return b.String()
}

func globalUsage() string {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&globals{}).register(flags)
	flags.BoolP("help", "h", false, "explain the command")
	return usage(flags)
}

// usage leaves out that a switch can be given a value.
func usage(flags *pflag.FlagSet) string {
	return strings.ReplaceAll(flags.FlagUsages(), "[=true|false]", "             ")
}

// help is what `fermata COMMAND --help` says.
func (c *command) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  %s\n", sentence(c.brief), strings.TrimSpace("fermata "+c.name+" "+c.args))
	if c.long != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(c.long))
	}
	if c.example != "" {
		fmt.Fprintf(&b, "\nExamples:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(c.example), "\n", "\n  "))
	}
	if c.rawFlags != nil {
		fmt.Fprintf(&b, "\nFlags:\n%s", c.rawFlags())
		return b.String()
	}
	flags := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	flags.SortFlags = false
	c.build(&session{globals: &globals{}}, flags)
	if flags.HasFlags() {
		fmt.Fprintf(&b, "\nFlags:\n%s", usage(flags))
	}
	fmt.Fprintf(&b, "\nFlags of every command:\n%s", globalUsage())
	return b.String()
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// help runs `fermata help [COMMAND]`.
func help(env Env, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(env.Stdout, overview())
		return nil
	}
	c := find(args[0])
	if c == nil {
		return misused("command %q: unknown; `fermata --help` lists them", args[0])
	}
	fmt.Fprint(env.Stdout, c.help())
	return nil
}
