package explain

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"fermata/internal/pod"
)

// told is the story of one pod.
type told struct{ pod.Story }

func (t told) Stories() []pod.Story { return []pod.Story{t.Story} }

func TestWhyExplainsAPodBetweenItsStages(t *testing.T) {
	began := time.Now().Add(-3 * time.Second)
	for _, c := range []struct {
		name   string
		stages []pod.Stage
		want   string
		stage  string
	}{
		{"one whose first stage has not begun", nil, "is being made for 3s: stage none yet", ""},
		{"one between two stages", []pod.Stage{{Pipeline: "run", Name: "files", Start: began, End: began}}, "stage none yet", ""},
		{"one in a stage", []pod.Stage{{Pipeline: "run", Name: "network", Start: began}}, "stage network, for 3s", "network"},
		{
			"one that failed and is being undone",
			[]pod.Stage{{Pipeline: "run", Name: "network", Start: began, End: began, Error: "no address", Culprit: "CNI plugin bridge"}},
			"could not be made, and what was done for it is being undone: stage network: no address", "network",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := told{pod.Story{Pod: pod.PodRecord{ID: "abcdef", State: pod.Preparing, Created: began, Stages: c.stages}}}
			if err := json.Unmarshal(fmt.Appendf(nil, `{"metadata":{"name":"web","namespace":"default"}}`), &s.Pod.Config); err != nil {
				t.Fatal(err)
			}
			a, err := (&Explainer{Stories: s}).Why("web")
			if err != nil {
				t.Fatal(err)
			}
			if !a.Wrong || !strings.Contains(a.Headline, c.want) || a.Stage != c.stage {
				t.Errorf("got %+v, want %q in stage %q", a, c.want, c.stage)
			}
		})
	}
}
