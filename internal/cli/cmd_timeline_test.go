package cli

import (
	"strings"
	"testing"
	"time"

	fermatav1 "fermata/api/fermata/v1"
)

func TestAWaterfallDrawsEachPartToItsOwnScale(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.Local)
	ms := func(n int64) int64 { return at.UnixNano() + n*1e6 }
	table := waterfall(&fermatav1.TimelineResponse{Stages: []*fermatav1.Stage{
		{Pipeline: "run", Name: "pause", Start: ms(0), End: ms(30)},
		{Pipeline: "run", Name: "network", Start: ms(30), End: ms(40)},
		{Container: "app", Pipeline: "start", Name: "launch", Start: ms(5000), End: ms(5004), Error: "no such program"},
		{Pipeline: "stop", Name: "network", Start: ms(9000)},
	}}, at.Add(9500*time.Millisecond))
	var b strings.Builder
	if err := table.print(&b); err != nil {
		t.Fatal(err)
	}
	want := `AT             OF    STAGE          TOOK
12:00:00.000   pod   run/pause      30.00ms    ██████████████████████████████
+30.00ms       pod   run/network    10.00ms                                  ██████████
12:00:05.000   app   start/launch   4.00ms     ████████████████████████████████████████ ✗ no such program
12:00:09.000   pod   stop/network   500.00ms   ████████████████████████████████████████▶ under way
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
