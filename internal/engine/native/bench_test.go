package native_test

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"time"

	"fermata/internal/engine"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// What a launch costs without network, cgroups and keeper: the plan, the clone, the program up to execve. The time to kill and reap is not
// counted. The least and the median are reported besides: on a busy machine the mean says little.

type times struct{ all []time.Duration }

func (s *times) since(t time.Time) { s.all = append(s.all, time.Since(t)) }

func (s *times) report(b *testing.B) {
	slices.Sort(s.all)
	b.ReportMetric(float64(s.all[0].Microseconds()), "min-µs")
	b.ReportMetric(float64(s.all[len(s.all)/2].Microseconds()), "median-µs")
}

func BenchmarkSandbox(b *testing.B) { benchmarkSandbox(b, nil) }

func BenchmarkSandboxWithUsers(b *testing.B) { benchmarkSandbox(b, mapped) }

func benchmarkSandbox(b *testing.B, users *spec.Users) {
	n := newNode(b)
	var took times
	for b.Loop() {
		began := time.Now()
		plan, err := n.Sandbox(context.Background(), &engine.Sandbox{ID: "pod", Hostname: "pod-host", UID: 65535, GID: 65535, Users: users})
		if err != nil {
			b.Fatal(err)
		}
		launchAndEnd(b, n, plan, func() { took.since(began) })
	}
	took.report(b)
}

func BenchmarkContainer(b *testing.B) { benchmarkContainer(b, nil, 1) }

func BenchmarkContainerWithUsers(b *testing.B) { benchmarkContainer(b, withUsers, 1) }

func BenchmarkContainerOf50Layers(b *testing.B) { benchmarkContainer(b, nil, 50) }

func BenchmarkContainerOf50LayersWithUsers(b *testing.B) { benchmarkContainer(b, withUsers, 50) }

func benchmarkContainer(b *testing.B, edit func(*engine.Sandbox), layers int) {
	p := newNode(b).pod(edit)
	lower := []string{p.lower}
	for i := range layers - 1 {
		lower = append(lower, p.mkdir("layer-"+itoa(i)))
	}
	var took times
	for b.Loop() {
		b.StopTimer()
		r := p.request("wait")
		r.rootfs.Lower = lower
		r.security().MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
		r.security().ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
		r.security().NoNewPrivs, r.input.Seccomp = true, defaultProfile(b)
		b.StartTimer()
		began := time.Now()
		plan, _, err := p.container(r)
		if err != nil {
			b.Fatal(err)
		}
		launchAndEnd(b, p.node, plan, func() { took.since(began) })
	}
	took.report(b)
}

func BenchmarkExec(b *testing.B) {
	p := newNode(b).pod(nil)
	first, s := p.start(p.request("ready", "wait"))
	first.await()
	var took times
	for b.Loop() {
		began := time.Now()
		plan, err := p.Exec(context.Background(), &engine.Exec{Spec: s, Process: spec.Process(s, []string{"/bin/app", "wait"}, false), Init: first.pidfd})
		if err != nil {
			b.Fatal(err)
		}
		launchAndEnd(b, p.node, plan, func() { took.since(began) })
	}
	took.report(b)
}

func launchAndEnd(b *testing.B, n *node, plan *engine.Plan, launched func()) {
	p := n.launchPlan(plan)
	launched()
	b.StopTimer()
	if err := p.failure(); err != nil {
		b.Fatal(err)
	}
	p.pidfd.Signal(syscall.SIGKILL)
	linux.WaitPID(p.pid)
	p.reaped = true
	p.end()
	b.StartTimer()
}

func BenchmarkContainerPlanOnly(b *testing.B) {
	p := newNode(b).pod(nil)
	var took times
	for b.Loop() {
		b.StopTimer()
		r := p.request("wait")
		r.security().NoNewPrivs, r.input.Seccomp = true, defaultProfile(b)
		b.StartTimer()
		began := time.Now()
		plan, _, err := p.container(r)
		if err != nil {
			b.Fatal(err)
		}
		took.since(began)
		b.StopTimer()
		plan.Close()
		b.StartTimer()
	}
	took.report(b)
}
