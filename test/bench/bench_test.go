package main

import (
	"strings"
	"testing"
	"time"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestMediansAreTheMiddleOnes(t *testing.T) {
	got := medians([]life{{runStep: 9 * time.Second}, {runStep: time.Second}, {runStep: 2 * time.Second}})
	if got[runStep] != 2*time.Second {
		t.Errorf("median %v, want 2s", got[runStep])
	}
}

func TestTheTableComparesWithTheFirst(t *testing.T) {
	a := &result{name: "a", sequential: map[string]time.Duration{runStep: 2 * time.Millisecond}, rate: 100, memory: memory{pods: 2, without: 10, with: 30}}
	b := &result{name: "b", sequential: map[string]time.Duration{runStep: 5 * time.Millisecond}, rate: 25, memory: memory{pods: 2, without: 10, with: 110}}
	got := strings.Join(strings.Fields(table([]*result{a, b})), " ")
	for _, want := range []string{"RunPodSandbox 2.00 ms 5.00 ms 2.5×", "lives a second 100.0 25.0 4.0×", "per idle pod 10 kB 50 kB 5.0×"} {
		if !strings.Contains(got, want) {
			t.Errorf("not there: %q in\n%s", want, got)
		}
	}
}

func TestTheTableOfProbes(t *testing.T) {
	a := &result{name: "a", probes: probes{pods: 50, took: 10 * time.Second, done: 500, used: used{600 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond}}}
	b := &result{name: "b", probes: probes{pods: 50, took: 10 * time.Second, done: 250, used: used{time.Second, 9 * time.Second, 500 * time.Millisecond}}}
	got := strings.Join(strings.Fields(table([]*result{a, b})), " ")
	for _, want := range []string{"probes a second 50.0 25.0", "runtime and what it runs, of a core 8.0 % 100.0 % 12.5×", "its own processes alone 6.0 % 10.0 % 1.7×", "a probe 1.60 ms 40.00 ms 25.0×", "kubelet, of a core 5.0 %"} {
		if !strings.Contains(got, want) {
			t.Errorf("not there: %q in\n%s", want, got)
		}
	}
}
