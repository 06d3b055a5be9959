package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// spec is one of critest's specs and how it ended.
type spec struct {
	name    string
	state   string // "passed", "failed", "skipped", "panicked", "timedout", …; "" when it was not chosen
	message string
	seconds float64
}

// readReport reads ginkgo's JSON report. Specs outside the focus are left out; so are benchmarks.
func readReport(path string) ([]spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeText            string
			LeafNodeType            string
			State                   string
			RunTime                 float64
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var specs []spec
	for _, suite := range suites {
		for _, r := range suite.SpecReports {
			name := strings.TrimSpace(strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " "))
			outside := r.State == "skipped" && r.Failure.Message == "" // not by a Skip() of its own
			if r.LeafNodeType != "It" && r.State == "passed" || outside || strings.Contains(name, "benchmark") {
				continue
			}
			if r.LeafNodeType != "It" {
				name = r.LeafNodeType + " " + name
			}
			specs = append(specs, spec{name, r.State, r.Failure.Message, r.RunTime / 1e9})
		}
	}
	if len(specs) == 0 {
		return nil, fmt.Errorf("%s: no specs", path)
	}
	return specs, nil
}

// known is one line of the list: specs that do not pass, and why.
type known struct {
	pattern *regexp.Regexp
	reason  string
	met     bool
}

// readList reads lines of "pattern | reason"; "#" begins a comment. A pattern is a regular expression on the spec's full name.
func readList(path string) ([]*known, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseList(path, string(data))
}

func parseList(path, text string) ([]*known, error) {
	var list []*known
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pattern, reason, ok := strings.Cut(line, " | ")
		if !ok || strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("%s:%d: want \"pattern | reason\"", path, i+1)
		}
		re, err := regexp.Compile(strings.TrimSpace(pattern))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		list = append(list, &known{pattern: re, reason: strings.TrimSpace(reason)})
	}
	return list, nil
}

// verdict is what a run comes to.
type verdict struct {
	passed, known int
	unexpected    []string // failed or skipped, and not listed
	stale         []string // listed, and passed or met by no spec
	slowest       []spec
}

func (v *verdict) ok() bool { return len(v.unexpected) == 0 && len(v.stale) == 0 }

// judge compares specs with the list. With a focus, a listed pattern need not be met.
func judge(specs []spec, list []*known, focused bool) *verdict {
	v := &verdict{}
	for _, s := range specs {
		if s.seconds > 5 {
			v.slowest = append(v.slowest, s)
		}
		in := find(list, s.name)
		switch {
		case s.state == "passed" && in != nil:
			v.stale = append(v.stale, fmt.Sprintf("%s: passes, but is listed: %s | %s", s.name, in.pattern, in.reason))
		case s.state == "passed":
			v.passed++
		case in != nil:
			v.known++
		default:
			v.unexpected = append(v.unexpected, fmt.Sprintf("%s: %s (%.1f s)\n      %s", s.name, s.state, s.seconds, indent(s.message)))
		}
	}
	for _, k := range list {
		if !k.met && !focused {
			v.stale = append(v.stale, fmt.Sprintf("no spec is named %s | %s", k.pattern, k.reason))
		}
	}
	return v
}

func find(list []*known, name string) *known {
	for _, k := range list {
		if k.pattern.MatchString(name) {
			k.met = true
			return k
		}
	}
	return nil
}

func indent(text string) string {
	if len(text) > 1200 {
		text = text[:1200] + " …"
	}
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
}

// String is the verdict for people.
func (v *verdict) String() string {
	var b strings.Builder
	for _, s := range v.slowest {
		fmt.Fprintf(&b, "slow: %5.1f s  %s (%s)\n", s.seconds, s.name, s.state)
	}
	for _, s := range v.unexpected {
		fmt.Fprintf(&b, "NOT PASSED: %s\n", s)
	}
	for _, s := range v.stale {
		fmt.Fprintf(&b, "LIST IS WRONG: %s\n", s)
	}
	fmt.Fprintf(&b, "%d passed, %d known not to, %d unexpected, %d wrongly listed", v.passed, v.known, len(v.unexpected), len(v.stale))
	return b.String()
}
