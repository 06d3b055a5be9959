package keeper_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"fermata/internal/keeper"
	"fermata/internal/keeper/client"
	"fermata/internal/keeper/wire"
	"fermata/internal/launch"
	"fermata/internal/linux"
)

// ownKeeper starts a keeper as a process of its own and returns its PID.
func ownKeeper(b *testing.B) (*world, int) {
	b.Helper()
	w := begin(b, keeper.Options{})
	exe := os.Getenv("FERMATA_KEEPER") // the real binary, to measure its size; else this one
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			b.Fatal(err)
		}
	}
	if err := client.Start(b.Context(), client.StartOptions{Binary: exe, Socket: w.o.Socket, State: w.o.State, Root: w.o.Root}); err != nil {
		b.Fatal(err)
	}
	w.dial()
	b.Cleanup(w.end)
	w.sh("who", "echo $PPID", w.logged)
	w.exits.of("who")
	if err := w.Forget(b.Context(), "who"); err != nil {
		b.Fatal(err)
	}
	var pid int
	fmt.Sscan(strings.TrimPrefix(w.entries("who.log")[0], "stdout F "), &pid)
	return w, pid
}

// cpu is the processor time a process has used, in user and kernel mode, to the tick.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+2:])
	var user, kernel int64
	fmt.Sscan(string(fields[11]), &user)
	fmt.Sscan(string(fields[12]), &kernel)
	return time.Duration(user+kernel) * 10 * time.Millisecond
}

// rss is a process's resident memory and what of it is private and dirty, in kB.
func rss(b *testing.B, pid int) (resident, private float64) {
	b.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		var name string
		var n float64
		fmt.Sscan(line, &name, &n)
		switch name {
		case "Rss:":
			resident = n
		case "Private_Dirty:":
			private = n
		}
	}
	return resident, private
}

// A container that writes 100-byte lines as fast as it can, to a log in memory.
func BenchmarkLogs(b *testing.B) {
	for _, c := range []struct{ name, script string }{
		{"100-byte lines in blocks", "yes " + strings.Repeat("x", 99) + " | head -c 134217728"},
		{"a write a line", "awk 'BEGIN { for (i = 0; i < 300000; i++) { print \"" + strings.Repeat("x", 99) + "\"; fflush() } }'"},
	} {
		b.Run(c.name, func(b *testing.B) {
			w, pid := ownKeeper(b)
			disk, err := linux.NewMount("tmpfs", 0, linux.Option{Key: "size", Value: "400m"})
			if err != nil {
				b.Fatal(err)
			}
			defer disk.Close()
			var bytes, n int64
			before := cpu(b, pid)
			for b.Loop() {
				id := fmt.Sprint("p", n)
				w.sh(id, c.script, w.logged, func(l *wire.Launch) { l.FDs[len(l.FDs)-1].FD = disk })
				if e := w.exits.of(id); e.LogDropped != 0 {
					b.Fatal("dropped: ", e.LogDropped)
				}
				log, err := disk.OpenBeneath(id+".log", os.O_RDWR, 0)
				if err != nil {
					b.Fatal(err)
				}
				st, err := os.Stat(log.Path())
				if err != nil {
					b.Fatal(err)
				}
				if err := log.Truncate(0); err != nil {
					b.Fatal(err)
				}
				log.Close()
				bytes += st.Size() * 100 / 140 // what was written, without the 40 bytes that each line gets
				n++
			}
			b.SetBytes(bytes / n)
			b.ReportMetric((cpu(b, pid)-before).Seconds()/float64(bytes)*(512<<20), "cpu-s/512MiB")
			resident, private := rss(b, pid)
			b.ReportMetric(resident, "kB-rss")
			b.ReportMetric(private, "kB-private")
		})
	}
}

// Launch, exit told, forgotten.
func BenchmarkLife(b *testing.B) {
	w, pid := ownKeeper(b)
	builder := launch.NewBuilder(launch.Native())
	builder.Do("exit", launch.ExitGroup, 0)
	program := w.memory(builder)
	before := cpu(b, pid)
	n := 0
	for b.Loop() {
		launched, err := w.Launch(b.Context(), w.request("p", program))
		if err != nil {
			b.Fatal(err)
		}
		launched.Pidfd.Close()
		w.exits.of("p")
		w.exits.all = nil
		if err := w.Forget(b.Context(), "p"); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64((cpu(b, pid)-before).Microseconds())/float64(n), "cpu-µs/op")
}

// What a keeper holds for 200 containers that log little, and costs while they are silent.
func BenchmarkIdle(b *testing.B) {
	w, pid := ownKeeper(b)
	empty, _ := rss(b, pid)
	for i := range 200 {
		w.sh(fmt.Sprint("p", i), "echo hello; exec sleep 1000", w.logged)
	}
	before := cpu(b, pid)
	for b.Loop() {
		time.Sleep(time.Second)
	}
	b.ReportMetric((cpu(b, pid) - before).Seconds(), "cpu-s")
	resident, private := rss(b, pid)
	b.ReportMetric(empty, "kB-rss-empty")
	b.ReportMetric(resident, "kB-rss-200")
	b.ReportMetric(private, "kB-private-200")
}
