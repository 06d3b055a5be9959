// Package manifest reads a Kubernetes Pod manifest and says what to ask of CRI for it, as the kubelet would for a static pod.
//
// It is pure: [Parse] takes text, [Convert] takes the pod and [Facts] and returns the requests and what must be on the disk
// before them; package cli carries them out. A field that fermata does not carry out is refused by its path, never ignored:
// a pod that runs without its probe or its secret is worse than one that does not run.
//
// The types are our own and hold only what is carried out: the published Kubernetes types would add 6.5 MB to the one binary and
// 1 MB to the daemon's memory (docs/decisions/0006-own-manifest-types.md).
package manifest

import (
	"encoding/json"
	"errors"
	"strings"

	"sigs.k8s.io/yaml"

	"fermata/internal/errs"
)

// Parse reads one Pod from YAML or JSON. Every refusal is an [errs.InvalidArgument]; all fields that are wrong are named, not only
// the first.
func Parse(text []byte) (*Pod, error) {
	if n := documents(text); n != 1 {
		return nil, errs.New(errs.InvalidArgument, "%d documents in one manifest: give one Pod at a time", n)
	}
	js, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "%w", err)
	}
	var loose any
	if err := json.Unmarshal(js, &loose); err != nil {
		return nil, errs.New(errs.InvalidArgument, "%w", err)
	}
	if err := checkKind(loose); err != nil {
		return nil, err
	}
	if problems := unknownFields(loose); len(problems) != 0 {
		return nil, errs.As(errs.InvalidArgument, errors.Join(problems...))
	}
	pod := &Pod{}
	if err := json.Unmarshal(js, pod); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, errs.New(errs.InvalidArgument, "%s: %s is not what goes here", wrong.Field, wrong.Value)
		}
		return nil, errs.New(errs.InvalidArgument, "%w", err)
	}
	setDefaults(pod)
	if problems := validate(pod); len(problems) != 0 {
		return nil, errs.As(errs.InvalidArgument, errors.Join(problems...))
	}
	return pod, nil
}

// checkKind comes before all else: told that a Deployment is not a Pod, nobody wants to hear which of its fields are unknown.
func checkKind(loose any) error {
	object, ok := loose.(map[string]any)
	if !ok {
		return errs.New(errs.InvalidArgument, "not a Kubernetes object")
	}
	if kind, version := object["kind"], object["apiVersion"]; kind != "Pod" || version != "v1" {
		return errs.New(errs.InvalidArgument, "kind %v of apiVersion %v: only a Pod of apiVersion v1 can be run", orNone(kind), orNone(version))
	}
	return nil
}

func orNone(v any) any {
	if v == nil {
		return "(none)"
	}
	return v
}

// documents counts the YAML documents that hold anything.
func documents(text []byte) int {
	n, content := 0, false
	for line := range strings.Lines(string(text) + "\n---\n") {
		switch bare := strings.TrimRight(line, " \t\r\n"); {
		case bare == "---" || strings.HasPrefix(bare, "--- "):
			if content {
				n++
			}
			content = false
		case bare != "" && !strings.HasPrefix(strings.TrimLeft(bare, " \t"), "#"):
			content = true
		}
	}
	return n
}
