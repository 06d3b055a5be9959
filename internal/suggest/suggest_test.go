package suggest

import (
	"testing"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestNearest(t *testing.T) {
	words := []string{"root", "state", "log_level", "cgroup_parent", "subnet", "ps", "pods", "pull"}
	for _, c := range []struct{ name, word, want string }{
		{"a letter left out", "stat", "state"},
		{"two letters swapped", "sbunet", "subnet"},
		{"a dash for an underscore", "log-level", "log_level"},
		{"another case", "Root", "root"},
		{"the first half of a long word", "cgroup", "cgroup_parent"},
		{"a short word with one slip", "pd", "ps"},
		{"nothing like it", "frobnicate", ""},
		{"nothing at all", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Nearest(c.word, words); got != c.want {
				t.Errorf("Nearest(%q) = %q, want %q", c.word, got, c.want)
			}
		})
	}
	if got := DidYouMean("rot", words); got != ` (did you mean "root"?)` {
		t.Errorf("DidYouMean: %q", got)
	}
	if got := DidYouMean("frobnicate", words); got != "" {
		t.Errorf("DidYouMean with nothing near: %q", got)
	}
}
