package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var debtsCommand = command{
	name: "debts", args: "", group: groupDaemon, max: 0,
	brief: "what network plugins have not given back of pods that are gone",
	long: `A CNI plugin that fails to disconnect a pod keeps no pod from stopping: what it may still hold is listed here and asked
for again, at most a minute apart, until the plugin gives it back.`,
	example: "fermata debts\nfermata debts --retry",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		retry := flags.Bool("retry", false, "ask the plugins for all of it now")
		return func(ctx context.Context, _ []string) error { return s.debts(ctx, *retry) }
	},
}

func (s *session) debts(ctx context.Context, retry bool) error {
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	answer, err := client.Debts(ctx, &fermatav1.DebtsRequest{Retry: retry})
	if err != nil {
		return fmt.Errorf("ask for debts: %w", err)
	}
	if done, err := s.structured(answer, ""); done {
		return err
	}
	if len(answer.GetDebts()) == 0 {
		fmt.Fprintln(s.Stdout, "No network plugin owes anything.")
		return nil
	}
	t := newTable("POD", "NETWORK", "SINCE", "TRIES", "NEXT", "WHY")
	now := time.Now()
	for _, d := range answer.GetDebts() {
		t.add(d.GetPodNamespace()+"/"+d.GetPodName(), d.GetNetwork(), age(now, time.Unix(0, d.GetSince()))+" ago", fmt.Sprint(d.GetTries()),
			"in "+age(time.Unix(0, d.GetNext()), now), d.GetError())
	}
	return t.print(s.Stdout)
}
