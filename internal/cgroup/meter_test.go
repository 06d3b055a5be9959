package cgroup_test

import (
	"context"
	"testing"

	"fermata/internal/cgroup"
	"fermata/internal/errs"
	"fermata/internal/linux"
)

func TestMeterReadsWhatStatsReads(t *testing.T) {
	onTrees(t, func(t *testing.T, tree *cgroup.Tree) {
		g := group(t, tree)
		start(t, g, "sleep")
		m := g.Meter()
		t.Cleanup(m.Close)
		for range 2 { // opening, and from kept files
			before := must(g.Stats())(t)
			s := must(m.Usage())(t)
			after := must(g.Stats())(t)
			for what, v := range map[string][3]uint64{
				"processor time":    {before.CPU.Usage, s.CPU.Usage, after.CPU.Usage},
				"page faults":       {before.Memory.PageFaults, s.Memory.PageFaults, after.Memory.PageFaults},
				"memory":            {before.Memory.Usage / 2, s.Memory.Usage, 2 * after.Memory.Usage},
				"the working set":   {before.Memory.WorkingSet / 2, s.Memory.WorkingSet, 2 * after.Memory.WorkingSet},
				"anonymous memory":  {before.Memory.RSS / 2, s.Memory.RSS, 2 * after.Memory.RSS},
				"the limit":         {before.Memory.Limit, s.Memory.Limit, after.Memory.Limit},
				"processes":         {before.Pids.Current, s.Pids.Current, after.Pids.Current},
				"swap is accounted": {flag(before.Swap.Accounted), flag(s.Swap.Accounted), flag(after.Swap.Accounted)},
				"pressure is there": {flag(before.CPU.Pressure != nil), flag(s.CPU.Pressure != nil), flag(after.CPU.Pressure != nil)},
			} {
				if v[1] < v[0] || v[1] > v[2] {
					t.Errorf("%s: %d; Stats gave %d before and %d after", what, v[1], v[0], v[2])
				}
			}
			if s.CPU.Usage == 0 {
				t.Error("no processor time of a process that ran")
			}
		}
	})
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func TestMeterSeesTheGroupThatIsThereNow(t *testing.T) {
	onTrees(t, func(t *testing.T, tree *cgroup.Tree) {
		g := group(t, tree)
		m := g.Meter()
		t.Cleanup(m.Close)
		must(m.Usage())(t)
		if err := g.Remove(deadline(t)); err != nil {
			t.Fatalf("an open file kept the group: %v", err)
		}
		if _, err := m.Usage(); !errs.Is(err, errs.NotFound) {
			t.Errorf("of a removed group: %v; want NotFound", err)
		}
		must(tree.Create(g.Path()))(t)
		must(m.Usage())(t)
		if err := g.Remove(deadline(t)); err != nil {
			t.Fatal(err)
		}
		must(tree.Create(g.Path()))(t)
		if _, err := m.Usage(); err != nil {
			t.Errorf("of a group that was removed and made again between two looks: %v", err)
		}
	})
}

func BenchmarkUsage(b *testing.B) {
	tree, err := cgroup.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	g, err := tree.Create("/fermata-bench-" + b.Name())
	if err != nil {
		b.Fatal(err)
	}
	defer g.Remove(context.Background())
	m := g.Meter()
	defer m.Close()
	b.Run("kept files", func(b *testing.B) {
		for b.Loop() {
			if _, err := m.Usage(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("opened each time", func(b *testing.B) {
		for b.Loop() {
			if _, err := m.Usage(); err != nil {
				b.Fatal(err)
			}
			m.Close()
		}
	})
	b.Run("all figures", func(b *testing.B) {
		for b.Loop() {
			if _, err := g.Stats(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Whoever holds a meter may read by it at the moment it is closed: nobody is left then to close what that opened (leak.Main sees it).
func TestAClosedMeterKeepsNothingOpen(t *testing.T) {
	onTrees(t, func(t *testing.T, tree *cgroup.Tree) {
		g := group(t, tree)
		m := g.Meter()
		m.Close()
		before := len(linux.OpenFDs())
		if _, err := m.Usage(); err != nil {
			t.Errorf("a closed meter does not answer: %v", err)
		}
		if after := len(linux.OpenFDs()); after != before {
			t.Errorf("%d descriptors open after reading by a closed meter, %d before", after, before)
		}
	})
}
