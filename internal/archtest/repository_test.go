package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the name in go.mod.
const module = "fermata"

// source is one Go file of the main module.
type source struct {
	path      string // from the repository's root, with slashes
	pkg       string // its directory
	test      bool
	generated bool
	ast       *ast.File
	lines     int
}

// line returns where a node begins, for messages.
func (s *source) line(fset *token.FileSet, n ast.Node) string {
	return s.path + ":" + strconv.Itoa(fset.Position(n.Pos()).Line)
}

// repository is every file, read once.
type repository struct {
	root    string
	fset    *token.FileSet
	sources []*source
	// packages are the directories with Go files.
	packages map[string][]*source
}

var load = sync.OnceValues(func() (*repository, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	r := &repository{root: root, fset: token.NewFileSet(), packages: map[string][]*source{}}
	return r, fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || name == "tools" || name == "bin"):
			return fs.SkipDir // tools is a module of its own
		case entry.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(r.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		s := &source{
			path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(file), ast: file,
			lines: strings.Count(string(text), "\n"),
		}
		r.sources = append(r.sources, s)
		r.packages[s.pkg] = append(r.packages[s.pkg], s)
		return nil
	})
})

func open(t *testing.T) *repository {
	t.Helper()
	r, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.packages) < 10 {
		t.Fatalf("only %d packages found below %s: the rules would hold for nothing", len(r.packages), r.root)
	}
	return r
}

func (r *repository) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// imports calls do with every import of a file: the whole path, and below the module also the directory ("" for others).
func (s *source) imports(do func(spec *ast.ImportSpec, whole, dir string)) {
	for _, i := range s.ast.Imports {
		whole, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue // the parser would not have taken it
		}
		dir, ours := strings.CutPrefix(whole, module+"/")
		if !ours {
			dir = ""
		}
		do(i, whole, dir)
	}
}

// below reports whether a package is entry or lies below it.
func below(pkg, entry string) bool { return pkg == entry || strings.HasPrefix(pkg, entry+"/") }
