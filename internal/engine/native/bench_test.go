package native_test

import (
	"context"
	"syscall"
	"testing"

	"fermata/internal/engine"
	"fermata/internal/linux"
	"fermata/internal/spec"
)

// What a launch costs without network, cgroups and keeper: the plan, the clone, the program up to execve. The time to kill and reap is not counted.

func BenchmarkSandbox(b *testing.B) {
	n := newNode(b)
	for b.Loop() {
		plan, err := n.Sandbox(context.Background(), &engine.Sandbox{ID: "pod", Hostname: "pod-host", UID: 65535, GID: 65535})
		if err != nil {
			b.Fatal(err)
		}
		launchAndEnd(b, n, plan)
	}
}

func BenchmarkContainer(b *testing.B) {
	p := newNode(b).pod(nil)
	for b.Loop() {
		b.StopTimer()
		r := p.request("wait")
		r.security().MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
		r.security().ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
		r.security().NoNewPrivs, r.input.Seccomp = true, defaultProfile(b)
		b.StartTimer()
		plan, _, err := p.container(r)
		if err != nil {
			b.Fatal(err)
		}
		launchAndEnd(b, p.node, plan)
	}
}

func BenchmarkExec(b *testing.B) {
	p := newNode(b).pod(nil)
	first, s := p.start(p.request("ready", "wait"))
	first.await()
	for b.Loop() {
		plan, err := p.Exec(context.Background(), &engine.Exec{Spec: s, Process: spec.Process(s, []string{"/bin/app", "wait"}, false), Init: first.pidfd})
		if err != nil {
			b.Fatal(err)
		}
		launchAndEnd(b, p.node, plan)
	}
}

func launchAndEnd(b *testing.B, n *node, plan *engine.Plan) {
	p := n.launchPlan(plan)
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
	for b.Loop() {
		b.StopTimer()
		r := p.request("wait")
		r.security().NoNewPrivs, r.input.Seccomp = true, defaultProfile(b)
		b.StartTimer()
		plan, _, err := p.container(r)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		plan.Close()
		b.StartTimer()
	}
}
