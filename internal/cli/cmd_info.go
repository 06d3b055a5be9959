package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var infoCommand = command{
	name: "info", args: "", group: groupDaemon, max: 0,
	brief: "is the daemon ready, and what can it do here",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		return func(ctx context.Context, _ []string) error { return s.info(ctx) }
	},
}

func (s *session) info(ctx context.Context) error {
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	answer, err := client.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return fmt.Errorf("ask for the daemon's status: %w", err)
	}
	view, err := withInfo(answer.Status, answer.Info)
	if err != nil {
		return err
	}
	if done, err := s.structured(view, ""); done {
		return err
	}
	t := newTable("CONDITION", "STATUS", "REASON", "MESSAGE")
	for _, c := range answer.GetStatus().GetConditions() {
		status := "False"
		if c.Status {
			status = "True"
		}
		t.add(c.Type, status, orDash(c.Reason), orDash(c.Message))
	}
	if err := t.print(s.Stdout); err != nil {
		return err
	}
	if len(answer.Info) > 0 {
		fmt.Fprintln(s.Stderr, "more with -o yaml")
	}
	return nil
}

// withInfo joins a status and the verbose info, whose values are JSON texts, into one structure.
func withInfo(status any, info map[string]string) (map[string]any, error) {
	text, err := toJSON(status)
	if err != nil {
		return nil, err
	}
	joined := map[string]any{"status": json.RawMessage(text)}
	details := map[string]any{}
	for key, value := range info {
		if json.Valid([]byte(value)) {
			details[key] = json.RawMessage(value)
		} else {
			details[key] = value
		}
	}
	switch inner, only := details["info"].(json.RawMessage); {
	case only && len(details) == 1: // everything under one key "info" is how containerd and fermata answer; crictl unwraps it, too
		joined["info"] = inner
	case len(details) > 0:
		joined["info"] = details
	}
	return joined, nil
}
