package service

import (
	"context"
	"strings"

	fermatav1 "fermata/api/fermata/v1"
)

// Why explains a pod, a container or an image.
func (s *Service) Why(_ context.Context, req *fermatav1.WhyRequest) (*fermatav1.WhyResponse, error) {
	a, err := s.explain.Why(req.GetName())
	if err != nil {
		return nil, err
	}
	return &fermatav1.WhyResponse{
		Object: plain(a.Object), Headline: plain(a.Headline), Stage: a.Stage, Culprit: plain(a.Culprit), Wrong: a.Wrong, Evidence: plainAll(a.Evidence), Advice: plainAll(a.Advice),
	}, nil
}

// Timeline tells of a pod's stages.
func (s *Service) Timeline(_ context.Context, req *fermatav1.TimelineRequest) (*fermatav1.TimelineResponse, error) {
	t, err := s.explain.Timeline(req.GetPod())
	if err != nil {
		return nil, err
	}
	resp := &fermatav1.TimelineResponse{Pod: plain(t.Title), PodId: t.ID}
	for _, st := range t.Stages {
		out := &fermatav1.Stage{
			Container: plain(st.Container), Pipeline: st.Pipeline, Name: st.Name, Start: st.Start.UnixNano(), Error: plain(st.Error), Culprit: plain(st.Culprit),
		}
		if !st.End.IsZero() {
			out.End = st.End.UnixNano()
		}
		resp.Stages = append(resp.Stages, out)
	}
	return resp, nil
}

// plain makes text of it that a message can carry: errors quote what was given.
func plain(s string) string { return strings.ToValidUTF8(s, "?") }

func plainAll(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = plain(s)
	}
	return out
}
