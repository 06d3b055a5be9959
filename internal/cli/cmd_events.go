package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
)

var eventsCommand = command{
	name: "events", args: "[flags]", group: groupPods, max: 0,
	brief: "what became of pods and containers",
	long: `What the records of those still there tell, oldest first; with -f also what happens from now on, until Ctrl-C.
With -o json each event is a line.`,
	example: "fermata events\nfermata events -f",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		follow := flags.BoolP("follow", "f", false, "go on as things happen")
		return func(ctx context.Context, _ []string) error { return s.events(ctx, *follow) }
	},
}

// event is one that is shown.
type event struct {
	Time   time.Time `json:"time"`
	Type   string    `json:"type"` // created, started, stopped, deleted
	Kind   string    `json:"kind"` // pod, container
	ID     string    `json:"id"`
	Name   string    `json:"name"`
	Detail string    `json:"detail,omitempty"`
}

func (s *session) events(ctx context.Context, follow bool) error {
	client, err := s.runtime(ctx)
	if err != nil {
		return err
	}
	var news runtimeapi.RuntimeService_GetContainerEventsClient
	if follow { // before the records are read, so that nothing is missed in between
		if news, err = client.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{}); err != nil {
			return err
		}
		if _, err := news.Header(); err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
	}
	tree, err := s.treeOf(ctx, nil)
	if err != nil {
		return err
	}
	told := map[string]bool{}
	for _, e := range eventsOf(tree) {
		told[e.ID+e.Type] = true
		if err := s.tell(e); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	return s.followEvents(ctx, news, told)
}

func (s *session) followEvents(ctx context.Context, news runtimeapi.RuntimeService_GetContainerEventsClient, told map[string]bool) error {
	for {
		m, err := news.Recv()
		if ctx.Err() != nil {
			return nil // Ctrl-C is how it is ended
		}
		if errors.Is(err, io.EOF) {
			return errors.New("follow events: the daemon has ended")
		}
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		e := eventOf(m)
		if told[e.ID+e.Type] { // of the moment between
			delete(told, e.ID+e.Type)
			continue
		}
		if err := s.tell(e); err != nil {
			return err
		}
	}
}

// tell shows one event.
func (s *session) tell(e event) error {
	if s.output == "json" {
		return json.NewEncoder(s.Stdout).Encode(e)
	}
	text := fmt.Sprintf("%s  %-7s  %-9s  %s  %s", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Type, e.Kind, e.Name, e.Detail)
	_, err := fmt.Fprintln(s.Stdout, strings.TrimRight(text, " "))
	return err
}

// eventsOf are what records tell, oldest first.
func eventsOf(tree *fermatav1.TreeResponse) []event {
	var all []event
	add := func(nanoseconds int64, e event) {
		if nanoseconds != 0 {
			e.Time = time.Unix(0, nanoseconds)
			all = append(all, e)
		}
	}
	for _, p := range tree.Pods {
		name := p.Namespace + "/" + p.Name
		add(p.CreatedAt, event{Type: "created", Kind: "pod", ID: p.Id, Name: name})
		for _, c := range p.Containers {
			of := event{Kind: "container", ID: c.Id, Name: name + "/" + c.Name}
			for _, at := range []struct {
				what   string
				time   int64
				detail string
			}{{"created", c.CreatedAt, c.Image}, {"started", c.StartedAt, ""}, {"stopped", c.FinishedAt, ending(c.ExitCode, c.Reason)}} {
				of.Type, of.Detail = at.what, at.detail
				add(at.time, of)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return a.Time.Compare(b.Time) })
	return all
}

func ending(code int32, reason string) string {
	text := fmt.Sprintf("exit code %d", code)
	if reason != "" && reason != "Completed" && reason != "Error" {
		text += ", " + reason
	}
	return text
}

// eventOf is one of CRI's.
func eventOf(m *runtimeapi.ContainerEventResponse) event {
	name := m.GetPodSandboxStatus().GetMetadata().GetNamespace() + "/" + m.GetPodSandboxStatus().GetMetadata().GetName()
	e := event{
		Time: time.Unix(0, m.CreatedAt), Kind: "pod", ID: m.ContainerId, Name: name,
		Type: strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(m.ContainerEventType.String(), "CONTAINER_"), "_EVENT")),
	}
	if m.ContainerId == m.GetPodSandboxStatus().GetId() {
		return e
	}
	e.Kind, e.Name = "container", name+"/"+short(m.ContainerId)
	for _, c := range m.ContainersStatuses {
		if c.Id != m.ContainerId {
			continue
		}
		e.Name = name + "/" + c.GetMetadata().GetName()
		switch m.ContainerEventType {
		case runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT:
			e.Detail = or(c.GetImage().GetUserSpecifiedImage(), c.GetImage().GetImage())
		case runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT:
			e.Detail = ending(c.ExitCode, c.Reason)
		}
	}
	return e
}
