package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var timelineCommand = command{
	name: "timeline", args: "POD", group: groupPods, min: 1, max: 1,
	brief: "every stage of a pod's life with its milliseconds",
	long: `A line is a stage: of the pod itself, or of a container. The bar shows when it was and how long it took. With -o json the
times are Unix time in nanoseconds; with --perfetto it is a trace for ui.perfetto.dev.`,
	example: "fermata timeline web\nfermata timeline web --perfetto > web.json",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		perfetto := flags.Bool("perfetto", false, "write a trace in the Trace Event Format")
		return func(ctx context.Context, args []string) error { return s.timeline(ctx, args[0], *perfetto) }
	},
}

func (s *session) timeline(ctx context.Context, name string, perfetto bool) error {
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	t, err := client.Timeline(ctx, &fermatav1.TimelineRequest{Pod: name})
	if err != nil {
		return err
	}
	if perfetto {
		return json.NewEncoder(s.Stdout).Encode(traceOf(t))
	}
	if done, err := s.structured(t, ""); done {
		return err
	}
	fmt.Fprintf(s.Stdout, "%s (%s)\n", t.GetPod(), t.GetPodId())
	return waterfall(t, time.Now()).print(s.Stdout)
}

// barColumns is how many characters the longest part of a waterfall has.
const barColumns = 40

// quiet is the longest pause that a waterfall draws: what lies further apart is another part, with a bar of its own.
const quiet = time.Second

// waterfall draws stages. Parts of a life that lie far apart (its start, its end) are drawn each to its own scale.
func waterfall(t *fermatav1.TimelineResponse, now time.Time) *table {
	out := newTable("AT", "OF", "STAGE", "TOOK", "")
	var part []*fermatav1.Stage
	var until int64
	for _, st := range t.GetStages() {
		if len(part) > 0 && st.GetStart()-until > int64(quiet) {
			drawPart(out, part, now)
			part = nil
		}
		part = append(part, st)
		until = max(until, endOf(st, now))
	}
	drawPart(out, part, now)
	return out
}

func endOf(st *fermatav1.Stage, now time.Time) int64 {
	if st.GetEnd() == 0 {
		return now.UnixNano()
	}
	return st.GetEnd()
}

func drawPart(out *table, part []*fermatav1.Stage, now time.Time) {
	if len(part) == 0 {
		return
	}
	from, to := part[0].GetStart(), int64(0)
	for _, st := range part {
		to = max(to, endOf(st, now))
	}
	span := max(to-from, 1)
	for i, st := range part {
		end := endOf(st, now)
		left := int((st.GetStart() - from) * barColumns / span)
		width := max(1, int((end-st.GetStart())*barColumns/span))
		of := st.GetContainer()
		if of == "" {
			of = "pod"
		}
		at := fmt.Sprintf("+%.2fms", float64(st.GetStart()-from)/1e6)
		if i == 0 {
			at = time.Unix(0, from).Format("15:04:05.000")
		}
		bar := strings.Repeat(" ", min(left, barColumns-1)) + strings.Repeat("█", width)
		switch {
		case st.GetEnd() == 0:
			bar += "▶ under way"
		case st.GetError() != "":
			bar += " ✗ " + st.GetError()
		}
		out.add(at, of, st.GetPipeline()+"/"+st.GetName(), fmt.Sprintf("%.2fms", float64(end-st.GetStart())/1e6), bar)
	}
}

// traceEvent is a complete event of the Trace Event Format, times in microseconds.
type traceEvent struct {
	Name     string            `json:"name"`
	Category string            `json:"cat"`
	Phase    string            `json:"ph"`
	Time     float64           `json:"ts"`
	Duration float64           `json:"dur"`
	Process  int               `json:"pid"`
	Thread   string            `json:"tid"`
	Args     map[string]string `json:"args,omitempty"`
}

// traceOf is a timeline for ui.perfetto.dev: a row a container.
func traceOf(t *fermatav1.TimelineResponse) map[string]any {
	events := []traceEvent{}
	for _, st := range t.GetStages() {
		row := st.GetContainer()
		if row == "" {
			row = t.GetPod()
		}
		e := traceEvent{
			Name: st.GetPipeline() + "/" + st.GetName(), Category: st.GetPipeline(), Phase: "X", Process: 1, Thread: row,
			Time: float64(st.GetStart()) / 1e3, Duration: float64(endOf(st, time.Now())-st.GetStart()) / 1e3,
		}
		if st.GetError() != "" {
			e.Args = map[string]string{"error": st.GetError(), "culprit": st.GetCulprit()}
		}
		events = append(events, e)
	}
	return map[string]any{"traceEvents": events, "displayTimeUnit": "ms"}
}
