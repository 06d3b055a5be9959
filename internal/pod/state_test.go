package pod

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDrawingShowsTheTable walks the states named in the drawing above State: a state that the table has and the drawing has not, or the
// other way round, is a drawing that stopped being true.
func TestDrawingShowsTheTable(t *testing.T) {
	src, err := os.ReadFile("state.go")
	if err != nil {
		t.Fatal(err)
	}
	drawing, _, _ := strings.Cut(string(src), "type State string")
	pods, containers, _ := strings.Cut(drawing[strings.Index(drawing, "pod:        "):], "container:  ")
	word := regexp.MustCompile(`[a-z]{5,}`)
	for _, c := range []struct {
		name, drawn string
		moves       map[State][]State
	}{{"pod", pods, podMoves}, {"container", containers, containerMoves}} {
		states := map[string]bool{}
		for from, to := range c.moves {
			states[string(from)] = true
			for _, s := range to {
				states[string(s)] = true
			}
		}
		drawn := word.FindAllString(c.drawn, -1)
		for s := range states {
			if !slices.Contains(drawn, s) {
				t.Errorf("%s: state %s is in the table and not in the drawing", c.name, s)
			}
		}
		// The main line of the drawing is a walk that must be legal from end to end.
		line, _, _ := strings.Cut(c.drawn, "\n")
		walk := word.FindAllString(line, -1)
		for i := 1; i < len(walk); i++ {
			if err := move(c.moves, c.name, State(walk[i-1]), State(walk[i])); err != nil {
				t.Errorf("the drawing shows %s -> %s: %v", walk[i-1], walk[i], err)
			}
		}
	}
}

func TestIllegalMovesAreErrors(t *testing.T) {
	for _, c := range []struct {
		moves    map[State][]State
		from, to State
	}{
		{podMoves, NotReady, Ready}, {podMoves, Ready, Removing}, {podMoves, Removing, Ready},
		{containerMoves, Exited, StateRun}, {containerMoves, Created, StateRun}, {containerMoves, StateRun, Removing},
	} {
		if err := move(c.moves, "x", c.from, c.to); err == nil {
			t.Errorf("%s -> %s was allowed", c.from, c.to)
		}
	}
}
