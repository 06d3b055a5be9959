package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var whyCommand = command{
	name: "why", args: "POD | CONTAINER | IMAGE", group: groupPods, min: 1, max: 1,
	brief: "why it is where it is, and what to do about it",
	long: `The first line is the answer: the state, since when, the stage it is in or failed in, and the cause. Then who is to
blame, what to do, and the evidence. It works for what is stuck now, for what failed a minute ago, and for what was removed within
the last hour.`,
	example: "fermata why web\nfermata why web/app\nfermata why nginx:1.99",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, args []string) error { return s.why(ctx, args[0]) }
	},
}

func (s *session) why(ctx context.Context, name string) error {
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	a, err := client.Why(ctx, &fermatav1.WhyRequest{Name: name})
	if err != nil {
		return err
	}
	if done, err := s.structured(a, ""); done {
		return err
	}
	fmt.Fprintf(s.Stdout, "%s\n", a.GetHeadline())
	if a.GetCulprit() != "" {
		fmt.Fprintf(s.Stdout, "\nculprit: %s\n", a.GetCulprit())
	}
	for _, do := range a.GetAdvice() {
		fmt.Fprintf(s.Stdout, "do: %s\n", do)
	}
	if len(a.GetEvidence()) > 0 {
		fmt.Fprintln(s.Stdout)
	}
	for _, line := range a.GetEvidence() {
		fmt.Fprintln(s.Stdout, " ", line)
	}
	return nil
}
