package pod

import (
	"errors"
	"strings"
	"testing"
)

func TestAJournalKeepsTheLastRunOfEachPipelineAndSaysWhatIsUnderWay(t *testing.T) {
	var j journal
	ok := func() error { return nil }
	if err := j.perform("run", step{"record", ok}, step{"pause", ok}); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no such plugin")
	err := j.perform("stop", step{"containers", ok}, step{"network", func() error {
		under := j.snapshot()
		if last := under[len(under)-1]; last.Pipeline != "stop" || last.Name != "network" || !last.End.IsZero() {
			t.Errorf("under way: %+v", last)
		}
		return broken
	}}, step{"never", func() error { t.Error("went on after an error"); return nil }})
	if !errors.Is(err, broken) || err.Error() != "network: no such plugin" {
		t.Errorf("perform = %v", err)
	}
	before := j.snapshot()
	if err := j.perform("stop", step{"containers", func() error { panic("bug") }}); err == nil || !strings.Contains(err.Error(), "bug") {
		t.Errorf("a panic in a step: %v", err)
	}
	var names []string
	for _, s := range j.snapshot() {
		if s.End.IsZero() || s.End.Before(s.Start) {
			t.Errorf("%s/%s ended at %v, began at %v", s.Pipeline, s.Name, s.End, s.Start)
		}
		names = append(names, s.Pipeline+"/"+s.Name+" "+s.Error)
	}
	if got := strings.Join(names, ","); !strings.HasPrefix(got, "run/record ,run/pause ,stop/containers a bug in fermata") || len(names) != 3 {
		t.Errorf("journal: %s", got)
	}
	if len(before) != 4 || before[3].Error != "no such plugin" {
		t.Errorf("an earlier snapshot changed: %+v", before)
	}
}
