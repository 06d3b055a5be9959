package keeper_test

import (
	"io"
	"os"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// withStdin is a process that waits for a line of stdin.
func withStdin(l *wire.Launch) { l.Stdin = wire.FIFO }

// say writes to a process's stdin and closes it.
func (w *world) say(id, text string) {
	w.t.Helper()
	fd, err := w.Stdin(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	f := fd.File()
	if _, err := f.WriteString(text); err != nil {
		w.t.Error(err)
	}
	f.Close()
	if err := w.CloseStdin(w.t.Context(), id); err != nil {
		w.t.Error(err)
	}
}

// follower makes a pipe for output.
func (w *world) follower() (*os.File, *linux.FD) {
	w.t.Helper()
	r, end, err := linux.OutputPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { r.Close(); end.Close() })
	if err := end.SetNonblock(true); err != nil {
		w.t.Fatal(err)
	}
	return r, end
}

func (w *world) follow(id string, stdout, stderr *linux.FD) {
	w.t.Helper()
	if err := w.Follow(w.t.Context(), id, stdout, stderr); err != nil {
		w.t.Fatal(err)
	}
	linux.CloseAll(stdout, stderr)
}

func TestFollowersGetWhatIsWrittenFromThenOn(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "echo before; read line; echo $line; echo error >&2", w.logged, withStdin)
	w.eventually("what came before is logged", func() bool { return len(w.entries("p.log")) == 1 })
	a, aEnd := w.follower()
	b, bEnd := w.follower()
	e, eEnd := w.follower()
	w.follow("p", aEnd, nil)
	w.follow("p", bEnd, eEnd)
	w.say("p", "after\n")
	for _, c := range []struct {
		name string
		from *os.File
		want string
	}{{"first", a, "after\n"}, {"second", b, "after\n"}, {"second's stderr", e, "error\n"}} {
		if got, err := io.ReadAll(c.from); err != nil || string(got) != c.want {
			t.Errorf("the %s got %q (%v), want %q", c.name, got, err, c.want)
		}
	}
	w.exits.of("p")
	late, lateEnd := w.follower()
	w.follow("p", lateEnd, nil)
	if got, err := io.ReadAll(late); err != nil || len(got) != 0 {
		t.Errorf("after the end: %q (%v)", got, err)
	}
}

func TestASlowFollowerIsGivenUpAndTheProcessGoesOn(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "read line; seq 1 300000", w.logged, withStdin) // 2 MB
	slow, slowEnd := w.follower()
	w.follow("p", slowEnd, nil)
	w.say("p", "go\n")
	if e := w.exits.of("p"); e.Code != 0 || e.LogDropped != 0 {
		t.Errorf("exit %+v", e)
	}
	if n := len(w.entries("p.log")); n != 300000 {
		t.Errorf("%d lines are logged", n)
	}
	got, err := io.ReadAll(slow)
	if err != nil || len(got) == 0 || len(got) >= 1<<20 {
		t.Errorf("the slow one got %d bytes (%v): not what its pipe holds", len(got), err)
	}
}

func TestFollowersThatLeaveAreForgotten(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("p", "read line", w.logged, withStdin)
	for range 200 { // more than may follow at once
		r, end := w.follower()
		for {
			err := w.Follow(t.Context(), "p", end, nil)
			if err == nil {
				break
			}
			if !errs.Is(err, errs.ResourceExhausted) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // those that left are noticed by the keeper in its own time
		}
		end.Close()
		r.Close()
	}
	w.say("p", "\n")
	w.exits.of("p")
}

func TestWhatCannotBeFollowed(t *testing.T) {
	w := start(t, keeper.Options{})
	w.sh("quiet", "read line", withStdin, func(l *wire.Launch) { l.Stdout, l.Stderr = wire.Null, wire.Null })
	_, end := w.follower()
	if err := w.Follow(t.Context(), "quiet", end, nil); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("without output: %v", err)
	}
	if err := w.Follow(t.Context(), "nobody", end, nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown: %v", err)
	}
	w.say("quiet", "\n")
	w.exits.of("quiet")
	w.sh("many", "read line", w.logged, withStdin)
	var last error
	for range 40 {
		_, end := w.follower()
		if last = w.Follow(t.Context(), "many", end, nil); last != nil {
			break
		}
	}
	if !errs.Is(last, errs.ResourceExhausted) {
		t.Errorf("40 followers of one stream: %v", last)
	}
	w.say("many", "\n")
	w.exits.of("many")
}
