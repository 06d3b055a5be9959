package image_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fermata/internal/errs"
	"fermata/internal/testkit/registry"
)

func TestHistoryIsTheMakersAndHasEveryLayer(t *testing.T) {
	for _, c := range []struct {
		name    string
		history []v1.History
		want    string
	}{
		{"none", nil, "|L0 |L1 |L2"},
		{"a step a layer, and one of settings", []v1.History{{CreatedBy: "ADD a"}, {CreatedBy: "CMD b", EmptyLayer: true, Comment: "c"}, {CreatedBy: "RUN d"}, {CreatedBy: "RUN e"}},
			"ADD a|L0 CMD b|c RUN d|L1 RUN e|L2"},
		{"fewer steps than layers", []v1.History{{CreatedBy: "ADD a"}}, "ADD a|L0 |L1 |L2"},
		{"more steps than layers", []v1.History{{CreatedBy: "a"}, {CreatedBy: "b"}, {CreatedBy: "c"}, {CreatedBy: "d"}}, "a|L0 b|L1 c|L2 d|"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg, s, img := registry.New(t, registry.Options{}), open(t), small()
			at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			for i := range c.history {
				c.history[i].Created = v1.Time{Time: at}
			}
			img.Config.History = c.history
			reg.Push("app:v1", img)
			pull(t, s, reg.Host()+"/app:v1")
			steps, err := s.History(reg.Host() + "/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			layers := resolve(t, s, reg.Host()+"/app:v1").LayerIDs
			var got []string
			for i, step := range steps {
				text := step.CreatedBy + "|" + step.Comment
				for n, id := range layers {
					if id == step.Layer {
						text += fmt.Sprint("L", n)
					}
				}
				if (step.Size > 0) != (step.Layer != "") {
					t.Errorf("step %d: layer %q has %d bytes", i, step.Layer, step.Size)
				}
				if i < len(c.history) && !step.Created.Equal(at) {
					t.Errorf("step %d: created %v", i, step.Created)
				}
				got = append(got, text)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%q, want %q", strings.Join(got, " "), c.want)
			}
			if _, err := s.History("none:1"); !errs.Is(err, errs.NotFound) {
				t.Errorf("of no image: %v", err)
			}
		})
	}
}
