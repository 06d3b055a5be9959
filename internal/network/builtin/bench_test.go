package builtin

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"fermata/internal/linux"
	"fermata/internal/network/endpoint"
	"fermata/internal/network/nettest"
)

// BenchmarkAttach measures connecting and disconnecting a pod; the medians are reported beside the mean, which a busy machine spoils.
func BenchmarkAttach(b *testing.B) {
	for _, c := range []struct {
		name  string
		ports []endpoint.PortMapping
	}{
		{"plain", nil},
		{"with a host port", []endpoint.PortMapping{{ContainerPort: 80, HostPort: 8080}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			m := newMachine(b)
			n := m.open()
			var attach, detach []time.Duration
			i := 0
			for b.Loop() {
				b.StopTimer()
				ns := nettest.Bare(b)
				id := fmt.Sprint("pod", i)
				i++
				b.StartTimer()
				start := time.Now()
				if _, err := n.Attach(b.Context(), endpoint.Attachment{SandboxID: id, NetNS: ns, Ports: c.ports}); err != nil {
					b.Fatal(err)
				}
				attached := time.Now()
				if err := n.Detach(b.Context(), id); err != nil {
					b.Fatal(err)
				}
				attach, detach = append(attach, attached.Sub(start)), append(detach, time.Since(attached))
			}
			b.ReportMetric(float64(median(attach).Microseconds()), "attach-median-µs")
			b.ReportMetric(float64(median(detach).Microseconds()), "detach-median-µs")
		})
	}
}

// BenchmarkAttachParallel connects fifty pods at once and disconnects them.
func BenchmarkAttachParallel(b *testing.B) {
	const pods = 50
	m := newMachine(b)
	n := m.open()
	var attach, detach []time.Duration
	for b.Loop() {
		b.StopTimer()
		spaces := make([]*linux.FD, pods)
		for i := range spaces {
			spaces[i] = nettest.Bare(b)
		}
		b.StartTimer()
		all := func(do func(i int) error) time.Duration {
			start := time.Now()
			var wg sync.WaitGroup
			for i := range pods {
				wg.Go(func() {
					if err := do(i); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
			return time.Since(start)
		}
		attach = append(attach, all(func(i int) error {
			_, err := n.Attach(b.Context(), endpoint.Attachment{SandboxID: fmt.Sprint("pod", i), NetNS: spaces[i]})
			return err
		}))
		detach = append(detach, all(func(i int) error { return n.Detach(b.Context(), fmt.Sprint("pod", i)) }))
		b.StopTimer()
		for _, ns := range spaces {
			ns.Close()
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(median(attach).Microseconds()), "attach-50-median-µs")
	b.ReportMetric(float64(median(detach).Microseconds()), "detach-50-median-µs")
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkOpen starts with five hundred pods that have a host port each, as a restarted daemon does.
func BenchmarkOpen(b *testing.B) {
	m := newMachine(b)
	n := m.open()
	ns := nettest.Bare(b)
	for i := range 500 {
		a := endpoint.Attachment{SandboxID: fmt.Sprint("pod", i), NetNS: ns, Ports: []endpoint.PortMapping{{ContainerPort: 80, HostPort: uint16(10000 + i)}}}
		if _, err := n.lease(&a, undoNothing()); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		again, err := Open(n.options)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := again.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
