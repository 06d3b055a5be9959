package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named finds what looks like a path of this repository in a document.
var named = regexp.MustCompile(`(?:^|[\s` + "`" + `("'])((?:internal|cmd|api|docs|demo|packaging|test|tools|scripts|bin)/[A-Za-z0-9_.*/{},<>-]*)`)

// target finds make targets.
var target = regexp.MustCompile("`(?:sudo )?make ([a-z][a-z0-9-]*)")

func documents(t *testing.T, r *repository) []string {
	t.Helper()
	var all []string
	err := fs.WalkDir(os.DirFS(r.root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, ".md") {
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDocumentsNameWhatExists(t *testing.T) {
	r := open(t)
	makefile := r.read(t, "Makefile")
	for _, name := range documents(t, r) {
		text := r.read(t, name)
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			path := strings.TrimRight(m[1], ".,/")
			if strings.ContainsAny(path, "*<>{}") || strings.HasPrefix(path, "bin/") { // a pattern; what `make build` makes
				continue
			}
			if _, err := os.Stat(filepath.Join(r.root, path)); err != nil {
				t.Errorf("%s: names %s, which is not there", name, path)
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: names `make %s`, which is no target", name, m[1])
			}
		}
	}
}

// The links between documents lead somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	r := open(t)
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	for _, name := range documents(t, r) {
		for _, m := range link.FindAllStringSubmatch(r.read(t, name), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(r.root, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: links to %s, which is not there", name, m[1])
			}
		}
	}
}

// Every target of the Makefile is explained by `make help`.
func TestMakeHelpTellsAll(t *testing.T) {
	phony := regexp.MustCompile(`(?m)^\.PHONY: (\S+)$`)
	makefile := open(t).read(t, "Makefile")
	all := phony.FindAllStringSubmatch(makefile, -1)
	if len(all) < 10 {
		t.Fatalf("only %d targets found", len(all))
	}
	for _, m := range all {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(m[1]) + `:.*## \S`).MatchString(makefile) {
			t.Errorf("Makefile: target %s lacks its line for `make help`", m[1])
		}
	}
}

// Notes of decisions are found by their number, from code and from one another: a number is one note, and the title says it again.
func TestDecisionsAreFoundByNumber(t *testing.T) {
	r := open(t)
	notes, err := os.ReadDir(filepath.Join(r.root, "docs/decisions"))
	if err != nil {
		t.Fatal(err)
	}
	byNumber := map[string]string{}
	for _, n := range notes {
		number, _, ok := strings.Cut(n.Name(), "-")
		if !ok || len(number) != 4 || !strings.HasSuffix(n.Name(), ".md") {
			t.Errorf("docs/decisions/%s: a note is named NNNN-title.md", n.Name())
			continue
		}
		if other, twice := byNumber[number]; twice {
			t.Errorf("docs/decisions: %s and %s have one number", other, n.Name())
		}
		byNumber[number] = n.Name()
		if text := r.read(t, "docs/decisions/"+n.Name()); !strings.HasPrefix(text, "# "+number) {
			t.Errorf("docs/decisions/%s: begins with %q, not with its number and title", n.Name(), text[:min(len(text), 20)])
		}
	}
	referred := regexp.MustCompile(`docs/decisions/(\d{4})`)
	for _, s := range r.sources {
		for _, group := range s.ast.Comments {
			for _, m := range referred.FindAllStringSubmatch(group.Text(), -1) {
				if byNumber[m[1]] == "" {
					t.Errorf("%s: refers to decision %s, which is not there", s.line(r.fset, group), m[1])
				}
			}
		}
	}
}
