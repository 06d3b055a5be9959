// Command writer is what package fault's containers run: it writes lines of package lines to both streams, and says at its end how many. A SIGTERM makes it come to
// its end; it always exits with the code that it was told.
//
//	writer -lines 40000 -seed 1 -exit 7
//	writer -rate 5000000 -for 60s
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"fermata/test/fault/lines"
)

// writer is one run.
type writer struct {
	random  *rand.Rand
	batch   int // lines a write, at most
	numbers [2]int
	rest    [2][]byte // of a line whose first half was written
	// slowest is how long the slowest write took, slow how many took longer than limit, blocked how many of those because they waited for somebody to read:
	// the others were kept from the processor.
	slowest       time.Duration
	slow, blocked int
}

// limit is from when on a write counts as blocked.
const limit = 10 * time.Millisecond

func main() {
	runtime.LockOSThread() // for waits
	count := flag.Int("lines", 1<<60, "`lines` to write at least, in both streams together")
	seed := flag.Uint64("seed", 1, "of the sizes of writes and the pauses between them")
	code := flag.Int("exit", 0, "exit `code`")
	rate := flag.Int("rate", 0, "`bytes` to write a second, to stdout alone; 0 for as many as it takes with short pauses")
	length := flag.Duration("for", time.Hour, "`time` to write for, with -rate")
	flag.Parse()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	w := &writer{random: rand.New(rand.NewPCG(*seed, 0)), batch: 200}
	if *rate > 0 {
		w.steadily(*rate, *length, ended)
	} else {
		w.inBursts(*count, ended)
	}
	for stream, rest := range w.rest {
		w.write(stream, rest)
	}
	w.write(0, fmt.Appendf(nil, "end %d %d %d %d %d\n", w.numbers[0], w.numbers[1], w.blocked, w.slow, w.slowest.Microseconds()))
	os.Exit(*code)
}

// inBursts writes batches of a few lines, with a pause now and then, and often half a line at their end.
func (w *writer) inBursts(count int, ended <-chan os.Signal) {
	var b []byte
	for w.numbers[0]+w.numbers[1] < count {
		stream := min(1, w.random.IntN(4)/3)
		b = append(b[:0], w.rest[stream]...)
		w.rest[stream] = w.rest[stream][:0]
		for range 1 + w.random.IntN(w.batch) {
			b = lines.Append(b, w.numbers[stream])
			w.numbers[stream]++
		}
		if cut := len(b) - w.random.IntN(40); cut > 0 && w.random.IntN(2) == 0 {
			w.rest[stream] = append(w.rest[stream], b[cut:]...)
			b = b[:cut]
		}
		w.write(stream, b)
		select {
		case <-ended:
			return
		case <-time.After(time.Duration(w.random.IntN(2000)) * time.Microsecond):
		}
	}
}

// steadily writes to stdout as much as is due, every millisecond.
func (w *writer) steadily(rate int, length time.Duration, ended <-chan os.Signal) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var b []byte
	for began, written := time.Now(), 0; time.Since(began) < length; {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		// What is overdue comes bit by bit: after a pause of the writer's own, all at once would fill any pipe.
		due := min(int(time.Since(began).Seconds()*float64(rate))-written, 3*rate/1000)
		for b = b[:0]; len(b) < due; w.numbers[0]++ {
			b = lines.Append(b, w.numbers[0])
		}
		written += len(b)
		w.write(0, b)
	}
}

func (w *writer) write(stream int, b []byte) {
	waited, began := waits(), time.Now()
	if _, err := []*os.File{os.Stdout, os.Stderr}[stream].Write(b); err != nil {
		os.Exit(99) // there is nobody to tell
	}
	took := time.Since(began)
	w.slowest = max(w.slowest, took)
	if took > limit {
		w.slow++
		if waits() > waited {
			w.blocked++
		}
	}
}

// waits is how often this thread has waited, as opposed to having been interrupted: getrusage(2).
func waits() int64 {
	const thisThread = 1
	var u syscall.Rusage
	if err := syscall.Getrusage(thisThread, &u); err != nil {
		os.Exit(98)
	}
	return u.Nvcsw
}
