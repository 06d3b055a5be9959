package archtest

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

const (
	maxFile     = 600 // lines
	maxFunction = 100 // lines
	maxParams   = 5
	maxMethods  = 5 // of an interface: bigger ones are two
)

// attic are names that say what kind of code is in a folder, and nothing of what it is about.
var attic = []string{"util", "utils", "common", "helper", "helpers", "types", "lib", "libs", "misc", "opts", "shared"}

func TestFoldersAreNamedForWhatTheyOwn(t *testing.T) {
	for pkg := range open(t).packages {
		for _, word := range strings.Split(pkg, "/") {
			if slices.Contains(attic, word) {
				t.Errorf("%s: %q is no name for a package: name the noun it owns", pkg, word)
			}
		}
	}
}

// imposed are methods whose parameters somebody else's interface fixes, by whose.
var imposed = map[string]string{
	"ExecInContainer": "k8s.io/cri-streaming remotecommand.Executor",
	"AttachContainer": "k8s.io/cri-streaming remotecommand.Attacher",
}

func TestFilesAndFunctionsStayShort(t *testing.T) {
	r := open(t)
	for _, s := range r.sources {
		if s.generated {
			continue
		}
		if s.lines > maxFile {
			t.Errorf("%s: %d lines, at most %d: split it by noun", s.path, s.lines, maxFile)
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := r.fset.Position(f.End()).Line - r.fset.Position(f.Pos()).Line + 1
			if lines > maxFunction && !s.test { // a table of cases may be long
				t.Errorf("%s: %s has %d lines, at most %d", s.line(r.fset, f), f.Name.Name, lines, maxFunction)
			}
			if n := f.Type.Params.NumFields(); n > maxParams && !s.test && imposed[f.Name.Name] == "" {
				t.Errorf("%s: %s has %d parameters, at most %d: pass a struct", s.line(r.fset, f), f.Name.Name, n, maxParams)
			}
		}
	}
}

func TestInterfacesStaySmall(t *testing.T) {
	r := open(t)
	for _, s := range r.sources {
		if s.generated {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if i, ok := spec.Type.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxMethods {
				t.Errorf("%s: interface %s has %d methods, at most %d: take it apart by what its users need", s.line(r.fset, spec), spec.Name.Name,
					i.Methods.NumFields(), maxMethods)
			}
			return true
		})
	}
}

// Errors read "operation object: cause". "failed to" says nothing that being an error does not say.
func TestErrorsSayWhatNotThat(t *testing.T) {
	r := open(t)
	for _, s := range r.sources {
		if s.test || s.generated {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				for _, filler := range []string{"failed to ", "unable to ", "error while "} {
					if strings.Contains(strings.ToLower(lit.Value), filler) {
						t.Errorf("%s: %s: an error reads \"operation object: cause\", without %q", s.line(r.fset, lit), lit.Value, strings.TrimSpace(filler))
					}
				}
			}
			return true
		})
	}
}

// Text is for people: what a program asks of an error is its kind or its errno.
func TestNobodyMatchesErrorText(t *testing.T) {
	r := open(t)
	for _, s := range r.sources {
		if s.test {
			continue // a test may hold an error to its words
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := f.X.(*ast.Ident); !ok || of.Name != "strings" && of.Name != "regexp" && of.Name != "bytes" {
				return true
			}
			switch f.Sel.Name {
			case "Contains", "HasPrefix", "HasSuffix", "EqualFold", "Index", "MatchString", "Cut", "CutPrefix", "CutSuffix":
			default:
				return true
			}
			for _, arg := range call.Args {
				if inner, ok := arg.(*ast.CallExpr); ok {
					if sel, ok := inner.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Error" && len(inner.Args) == 0 {
						t.Errorf("%s: matches the text of an error: ask errors.Is, errors.As or errs.Is", s.line(r.fset, call))
					}
				}
			}
			return true
		})
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	r := open(t)
	for pkg, files := range r.packages {
		said, code := false, false
		for _, s := range files {
			if s.test {
				continue
			}
			code = true
			said = said || s.ast.Doc != nil && len(strings.TrimSpace(s.ast.Doc.Text())) > 0 && !s.generated
		}
		if code && !said {
			t.Errorf("%s: no package comment: what it is, what it promises, what belongs elsewhere", pkg)
		}
	}
}

// A test that leaves a descriptor, a goroutine or a child has found a leak of the code it tests.
func TestEveryPackageLooksForLeaks(t *testing.T) {
	r := open(t)
	for pkg, files := range r.packages {
		tests, looks := false, false
		for _, s := range files {
			if !s.test {
				continue
			}
			for _, d := range s.ast.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Recv != nil {
					continue
				}
				if f.Name.Name == "TestMain" {
					looks = looks || callsLeak(f)
				} else if strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz") {
					tests = true
				}
			}
		}
		if tests && !looks {
			t.Errorf("%s: has tests and no TestMain that ends in leak.Main", pkg)
		}
	}
}

// callsLeak finds leak.Main or leak.Left, or, in package leak itself, Main.
func callsLeak(f *ast.FuncDecl) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.SelectorExpr:
			if of, ok := x.X.(*ast.Ident); ok && of.Name == "leak" && (x.Sel.Name == "Main" || x.Sel.Name == "Left") {
				found = true
			}
		case *ast.CallExpr:
			if id, ok := x.Fun.(*ast.Ident); ok && id.Name == "Main" {
				found = true
			}
		}
		return true
	})
	return found
}
