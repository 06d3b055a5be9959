package cli

import (
	"strings"
	"testing"
	"time"

	fermatav1 "fermata/api/fermata/v1"
)

func TestPullLine(t *testing.T) {
	for _, c := range []struct {
		name string
		at   *fermatav1.PullImageResponse
		want string
	}{
		{"nothing is known yet", nil, "pulling app:1 … 2.0s"},
		{"the manifest has not said", &fermatav1.PullImageResponse{}, "pulling app:1 … 2.0s"},
		{"a half", &fermatav1.PullImageResponse{Bytes: 5e6, Total: 1e7, Layers: 1, LayersTotal: 3},
			"app:1 " + strings.Repeat("█", 15) + strings.Repeat("░", 15) + "  50%  5.00MB of 10.0MB, 1 of 3 layers, 2.50MB/s"},
		{"more than was said is all of it", &fermatav1.PullImageResponse{Bytes: 9, Total: 4, Layers: 1, LayersTotal: 1},
			"app:1 " + strings.Repeat("█", 30) + " 100%  4B of 4B, 1 of 1 layers, 2B/s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := pullLine("app:1", c.at, 2*time.Second); got != c.want {
				t.Errorf("drawn %q\nwant  %q", got, c.want)
			}
		})
	}
}

// Another runtime's socket serves no fermata.v1: pulling goes by CRI then.
func TestPullFromAnotherRuntimeGoesByCRI(t *testing.T) {
	f, address := serve(t)
	got := do(t, address, "", "pull", "blind/app:1")
	if got.code != 0 || !strings.Contains(got.errOut, "pulled blind/app:1") {
		t.Errorf("%+v", got)
	}
	if n := f.count("PullImage"); n != 2 {
		t.Errorf("PullImage was called %d times, want once by each service", n)
	}
}

func TestTheImageNounIsUnderstood(t *testing.T) {
	_, address := serve(t)
	for noun, plain := range map[string]string{"image ls": "images", "image load x.tar": "load x.tar", "image pull a:1": "pull a:1"} {
		a, b := do(t, address, "", strings.Fields(noun)...), do(t, address, "", strings.Fields(plain)...)
		if a.code != b.code || a.out != b.out {
			t.Errorf("fermata %s gave %+v; fermata %s gave %+v", noun, a, plain, b)
		}
	}
}
