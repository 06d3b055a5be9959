// Package doctor compares what is recorded with what the kernel has, and says each difference with its remedy.
//
// Who owns a resource knows how to look at it: each owner gives a [Check]. A difference that a second look a moment later does not find was work in
// progress, and is not told. The daemon looks once a minute by itself and mends what it finds ([Report.Repair]), but for
// what might be somebody else's; `fermata doctor` looks when asked.
//
// Promises: looking changes nothing; a repair that fails is told and keeps no other from being tried.
//
// Elsewhere: the checks themselves (pod, network, image, …), their wiring (daemon), the table that people see (cli).
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// again is how long after the first look the second is, which tells damage from work in progress.
const again = 50 * time.Millisecond

// Finding is one difference between what is recorded and what there is.
type Finding struct {
	// Area is the check's: "pods", "cgroups", "network", "images", "files".
	Area string
	// Object is what it is about, by a name that a person can look for.
	Object string
	// Problem says what is wrong, Remedy what mends it.
	Problem, Remedy string
	// Repair mends it; nil where only a person can. Asked says that it is done for who asks for it, and never unasked.
	Repair func(context.Context) error
	Asked  bool
}

// String is one line.
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s; remedy: %s", f.Area, f.Object, f.Problem, f.Remedy)
}

// Check looks at one kind of thing.
type Check struct {
	Area string
	Look func(context.Context) ([]Finding, error)
}

// Report is what a look at everything found.
type Report struct {
	Findings []Finding
	// Failed are the checks that could not look, and why.
	Failed []error
}

// Clean says that everything could be looked at and nothing was found.
func (r *Report) Clean() bool { return len(r.Findings) == 0 && len(r.Failed) == 0 }

// Examine looks at everything, and once more where it found something. The findings are sorted.
func Examine(ctx context.Context, checks []Check) *Report {
	r := &Report{}
	for _, c := range checks {
		found, err := c.twice(ctx)
		if err != nil {
			r.Failed = append(r.Failed, fmt.Errorf("examine %s: %w", c.Area, err))
		}
		r.Findings = append(r.Findings, found...)
	}
	slices.SortFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Area, b.Area), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Problem, b.Problem))
	})
	return r
}

// twice is what two looks in a row find.
func (c Check) twice(ctx context.Context) ([]Finding, error) {
	first, err := c.Look(ctx)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	select {
	case <-time.After(again):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	second, err := c.Look(ctx)
	var both []Finding
	for _, f := range second {
		f.Area = c.Area
		if slices.ContainsFunc(first, func(g Finding) bool { return g.Object == f.Object && g.Problem == f.Problem }) {
			both = append(both, f)
		}
	}
	return both, err
}

// Repair mends what can be mended, and returns why the rest could not, by finding. asked says that a person wants it.
func (r *Report) Repair(ctx context.Context, asked bool) map[int]error {
	failed := map[int]error{}
	for i, f := range r.Findings {
		if f.Repair == nil || f.Asked && !asked {
			continue
		}
		if err := f.Repair(ctx); err != nil {
			failed[i] = err
		}
	}
	return failed
}
