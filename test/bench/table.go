package main

import (
	"fmt"
	"strings"
	"time"
)

// table shows the results beside each other; with more than one, how many times the first's each other's figure is.
func table(results []*result) string {
	var b strings.Builder
	line := func(name string, cell func(*result) (text string, value float64)) {
		fmt.Fprintf(&b, "%-38s", name)
		_, first := cell(results[0])
		for i, r := range results {
			text, value := cell(r)
			fmt.Fprintf(&b, "%14s", text)
			if i > 0 && first != 0 {
				fmt.Fprintf(&b, "%9.1f×", value/first)
			}
		}
		b.WriteByte('\n')
	}
	head := func(name string) {
		fmt.Fprintf(&b, "%-38s", name)
		for i, r := range results {
			fmt.Fprintf(&b, "%14s", r.name)
			if i > 0 {
				fmt.Fprintf(&b, "%10s", "")
			}
		}
		b.WriteByte('\n')
	}
	if p := results[0].probes; p.pods != 0 {
		head(fmt.Sprintf("exec probes, %d pods, one a second each", p.pods))
		line("  probes a second", func(r *result) (string, float64) {
			rate := float64(r.probes.done) / r.probes.took.Seconds()
			return fmt.Sprintf("%.1f", rate), rate
		})
		line("  runtime and what it runs, of a core", percent(func(p probes) float64 { return p.ofCore(p.runtime + p.ran) }))
		line("  … its own processes alone", percent(func(p probes) float64 { return p.ofCore(p.runtime) }))
		line("  runtime and what it runs, a probe", each(func(p probes) time.Duration { return p.each(p.runtime + p.ran) }))
		line("  kubelet, of a core", percent(func(p probes) float64 { return p.ofCore(p.kubelet) }))
		line("  kubelet, a probe", each(func(p probes) time.Duration { return p.each(p.kubelet) }))
		return b.String()
	}
	steps := func(of func(*result) map[string]time.Duration) {
		for _, row := range rows {
			line("  "+row, func(r *result) (string, float64) {
				ms := of(r)[row].Seconds() * 1000
				return fmt.Sprintf("%.2f ms", ms), ms
			})
		}
	}
	head("one after another, medians")
	steps(func(r *result) map[string]time.Duration { return r.sequential })
	head("in parallel, medians")
	steps(func(r *result) map[string]time.Duration { return r.parallel })
	line("  lives a second", func(r *result) (string, float64) { return fmt.Sprintf("%.1f", r.rate), 1 / r.rate }) // more is better
	if results[0].memory.pods != 0 {
		head(fmt.Sprintf("memory (PSS), %d idle pods", results[0].memory.pods))
		line("  runtime without pods", kilobytes(func(m memory) float64 { return float64(m.without) }))
		line("  runtime with them", kilobytes(func(m memory) float64 { return float64(m.with) }))
		line("  per idle pod", kilobytes(memory.perPod))
	}
	return b.String()
}

func kilobytes(of func(memory) float64) func(*result) (string, float64) {
	return func(r *result) (string, float64) { return fmt.Sprintf("%.0f kB", of(r.memory)), of(r.memory) }
}

func percent(of func(probes) float64) func(*result) (string, float64) {
	return func(r *result) (string, float64) { return fmt.Sprintf("%.1f %%", of(r.probes)), of(r.probes) }
}

func each(of func(probes) time.Duration) func(*result) (string, float64) {
	return func(r *result) (string, float64) {
		ms := of(r.probes).Seconds() * 1000
		return fmt.Sprintf("%.2f ms", ms), ms
	}
}
