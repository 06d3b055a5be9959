package doctor

import (
	"context"
	"errors"
	"testing"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestOnlyWhatASecondLookFindsTooIsTold(t *testing.T) {
	looks := 0
	check := Check{Area: "pods", Look: func(context.Context) ([]Finding, error) {
		looks++
		found := []Finding{{Object: "b", Problem: "broken"}, {Object: "a", Problem: "broken"}}
		if looks == 1 {
			found = append(found, Finding{Object: "c", Problem: "being made"})
		}
		return found, nil
	}}
	r := Examine(t.Context(), []Check{check})
	if len(r.Findings) != 2 || r.Findings[0].String() != "pods: a: broken; remedy: " || r.Clean() {
		t.Errorf("findings: %v", r.Findings)
	}
	quiet := Check{Area: "files", Look: func(context.Context) ([]Finding, error) { return nil, nil }}
	if r := Examine(t.Context(), []Check{quiet}); !r.Clean() {
		t.Errorf("nothing to find: %+v", r)
	}
}

func TestACheckThatCannotLookKeepsNoOtherFromLooking(t *testing.T) {
	cause := errors.New("no such socket")
	r := Examine(t.Context(), []Check{
		{Area: "network", Look: func(context.Context) ([]Finding, error) { return nil, cause }},
		{Area: "pods", Look: func(context.Context) ([]Finding, error) { return []Finding{{Object: "a", Problem: "broken"}}, nil }},
	})
	if len(r.Failed) != 1 || !errors.Is(r.Failed[0], cause) || len(r.Findings) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestARepairThatFailsKeepsNoOtherFromBeingTried(t *testing.T) {
	cause, mended := errors.New("busy"), 0
	r := &Report{Findings: []Finding{
		{Object: "a", Repair: func(context.Context) error { return cause }},
		{Object: "b"}, // for a person
		{Object: "c", Repair: func(context.Context) error { mended++; return nil }},
	}}
	if failed := r.Repair(t.Context(), false); len(failed) != 1 || failed[0] != cause || mended != 1 {
		t.Errorf("failed %v, mended %d", failed, mended)
	}
}

func TestWhatIsRepairedForWhoAsksIsNotRepairedUnasked(t *testing.T) {
	mended := 0
	r := &Report{Findings: []Finding{{Object: "a", Asked: true, Repair: func(context.Context) error { mended++; return nil }}}}
	if r.Repair(t.Context(), false); mended != 0 {
		t.Error("repaired unasked")
	}
	if r.Repair(t.Context(), true); mended != 1 {
		t.Error("not repaired though asked for")
	}
}
