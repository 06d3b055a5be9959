package explain

import "testing"

// What a look costs: of a machine's processes, with their namespaces and without.
func BenchmarkLook(b *testing.B) {
	e := &Explainer{Proc: "/proc"}
	for name, namespaces := range map[string]bool{"with namespaces": true, "without": false} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				all, err := e.look(namespaces, nil)
				if err != nil {
					b.Fatal(err)
				}
				n = len(all)
			}
			b.ReportMetric(float64(n), "processes")
		})
	}
}
