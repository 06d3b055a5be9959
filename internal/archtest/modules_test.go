package archtest

import (
	"go/ast"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const dependencies = "docs/dependencies.txt"

// A module that the code imports has a line in docs/dependencies.txt with the reason for it, and no line is left over.
func TestEveryModuleHasAReason(t *testing.T) {
	r := open(t)
	var required []string
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:require )?([a-z0-9.-]+\.[a-z]+/\S+|[a-z0-9.-]+\.[a-z]+) v\S+`).FindAllStringSubmatch(r.read(t, "go.mod"), -1) {
		required = append(required, m[1])
	}
	if len(required) < 5 {
		t.Fatalf("only %d modules found in go.mod", len(required))
	}
	used := map[string]string{} // by module: where
	for _, s := range r.sources {
		s.imports(func(spec *ast.ImportSpec, whole, dir string) {
			if dir != "" || !strings.Contains(strings.Split(whole, "/")[0], ".") {
				return
			}
			found := ""
			for _, m := range required {
				if below(whole, m) && len(m) > len(found) {
					found = m
				}
			}
			if found == "" {
				t.Errorf("%s: imports %s, whose module is not in go.mod", s.line(r.fset, spec), whole)
				return
			}
			used[found] = s.line(r.fset, spec)
		})
	}
	reasons := map[string]string{}
	for line := range strings.Lines(r.read(t, dependencies)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, " ")
		if strings.TrimSpace(reason) == "" {
			t.Errorf("%s: %s lacks its reason", dependencies, name)
		}
		if _, twice := reasons[name]; twice {
			t.Errorf("%s: %s is there twice", dependencies, name)
		}
		reasons[name] = reason
	}
	for _, m := range slices.Sorted(maps.Keys(used)) {
		if _, ok := reasons[m]; !ok {
			t.Errorf("%s: uses module %s, which has no line in %s", used[m], m, dependencies)
		}
	}
	for _, m := range slices.Sorted(maps.Keys(reasons)) {
		if _, ok := used[m]; !ok {
			t.Errorf("%s: nothing uses %s any more: remove its line", dependencies, m)
		}
	}
}
