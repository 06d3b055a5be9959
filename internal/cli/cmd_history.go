package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var historyCommand = command{
	name: "history", args: "IMAGE", group: groupImages, min: 1, max: 1,
	brief: "how an image was made, newest step first",
	long: `It is what the image's maker wrote down. A size is a layer's on disk, unpacked; a step without one changed settings
only. -o wide shows whole commands.`,
	example: "fermata history registry.example.com/web:1",
	build: func(s *session, _ *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, args []string) error { return s.history(ctx, args[0]) }
	},
}

// shownCommand is how much of a command a table shows, in characters.
const shownCommand = 60

func (s *session) history(ctx context.Context, image string) error {
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	answer, err := client.ImageHistory(ctx, &fermatav1.ImageHistoryRequest{Image: image})
	if err != nil {
		return err
	}
	if done, err := s.structured(answer, ""); done {
		return err
	}
	t := newTable("LAYER", "CREATED", "SIZE", "CREATED BY", "COMMENT")
	for _, step := range answer.Steps {
		created, size := "", ""
		if step.CreatedAt != 0 {
			created = age(time.Now(), time.Unix(0, step.CreatedAt))
		}
		if step.Layer != "" {
			size = bytesText(step.Size)
		}
		by := strings.Join(strings.Fields(step.CreatedBy), " ")
		if runes := []rune(by); s.output != "wide" && len(runes) > shownCommand {
			by = string(runes[:shownCommand-1]) + "…"
		}
		t.add(or(short(step.Layer), "-"), or(created, "-"), or(size, "-"), printable(by), printable(step.Comment))
	}
	return t.print(s.Stdout)
}
