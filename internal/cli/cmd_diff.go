package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var diffCommand = command{
	name: "diff", args: "POD|CONTAINER", group: groupPods, min: 1, max: 1,
	brief: "what a container has changed in its files",
	long: `A is added, C changed (also a directory in which something changed), D deleted, against the container's image. Volumes
are not of it.`,
	example: "sudo fermata diff web\nsudo fermata diff web -c server",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		container := flags.StringP("container", "c", "", "which container of the pod")
		return func(ctx context.Context, args []string) error { return s.diff(ctx, args[0], *container) }
	},
}

// change is a difference as -o json gives it.
type change struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
}

func (s *session) diff(ctx context.Context, name, in string) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	c, err := v.container(name, in)
	if err != nil {
		return err
	}
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	stream, err := client.Diff(ctx, &fermatav1.DiffRequest{ContainerId: c.Id})
	if err != nil {
		return err
	}
	all := []change{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("diff of %s: %w", v.containerName(c), err)
		}
		for _, one := range m.Changes {
			all = append(all, change{one.Kind.String()[:1], string(one.Path)})
		}
	}
	if done, err := s.structured(all, ""); done {
		return err
	}
	for _, one := range all {
		fmt.Fprintln(s.Stdout, one.Kind, printable(one.Path))
	}
	return nil
}

// printable quotes a name that would do something to a terminal.
func printable(path string) string {
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` && strings.ContainsFunc(path, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return quoted
	}
	return path
}
