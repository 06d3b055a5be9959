package explain

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// tree makes files: "dir/" a directory, "dir!/" an opaque one, "-x" a whiteout, "x@y" a link, the others files.
func tree(t *testing.T, entries ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, entry := range entries {
		path := filepath.Join(root, strings.TrimSuffix(strings.TrimSuffix(entry, "/"), "!"))
		base := filepath.Base(path)
		var err error
		switch {
		case strings.HasSuffix(entry, "!/"):
			if err = os.Mkdir(path, 0o755); err == nil {
				err = mark(path)
			}
		case strings.HasSuffix(entry, "/"):
			err = os.Mkdir(path, 0o755)
		case strings.HasPrefix(base, "-"):
			err = syscall.Mknod(filepath.Join(filepath.Dir(path), base[1:]), syscall.S_IFCHR, 0)
		case strings.Contains(base, "@"):
			name, to, _ := strings.Cut(entry, "@")
			err = os.Symlink(to, filepath.Join(root, name))
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func mark(path string) error {
	dir, err := linux.OpenDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.SetXattr(opaqueAttribute, "y")
}

func TestDiffTellsWhatAContainerChanged(t *testing.T) {
	base := tree(t, "etc/", "etc/passwd", "etc/gone", "usr/", "usr/lib/", "usr/lib/a", "usr/lib/b", "var/", "var/x", "link@etc")
	top := tree(t, "etc/", "etc/-gone", "etc/added", "usr/", "usr/lib!/", "usr/lib/c")
	for _, c := range []struct {
		name  string
		upper []string
		want  string
	}{
		{"nothing", nil, ""},
		{"a new file, a new directory with one", []string{"new", "dir/", "dir/file"}, "A /dir|A /dir/file|A /new"},
		{"a changed file of either layer", []string{"etc/", "etc/passwd", "etc/added"}, "C /etc|C /etc/added|C /etc/passwd"},
		{"a file that a layer had removed", []string{"etc/", "etc/gone"}, "C /etc|A /etc/gone"},
		{"removed: a file, a directory", []string{"etc/", "etc/-passwd", "-var"}, "C /etc|D /etc/passwd|D /var"},
		{"made and removed", []string{"-never"}, ""},
		{"a directory made anew in the place of another", []string{"etc!/", "etc/new", "etc/passwd"}, "C /etc|D /etc/added|A /etc/new|C /etc/passwd"},
		{"a layer's directory that hides what is below", []string{"usr/", "usr/lib/", "usr/lib/a", "usr/lib/c"}, "C /usr|C /usr/lib|A /usr/lib/a|C /usr/lib/c"},
		{"a file in the place of a directory, and the other way round", []string{"var", "link/", "link/passwd"}, "C /link|A /link/passwd|C /var"},
		{"a link out of it is not followed", []string{"out@..", "etc/"}, "C /etc|A /out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Explainer{Pods: &fake{upper: tree(t, c.upper...), lower: []string{top, base}}}
			var got []string
			err := e.Diff(t.Context(), "c", func(c Change) error {
				got = append(got, fmt.Sprintf("%c %s", "ACD"[c.Kind], c.Path))
				return nil
			})
			if err != nil || strings.Join(got, "|") != c.want {
				t.Errorf("%q (%v), want %q", strings.Join(got, "|"), err, c.want)
			}
		})
	}
	t.Run("a container that never started", func(t *testing.T) {
		e := &Explainer{Pods: &fake{upper: filepath.Join(t.TempDir(), "none"), lower: []string{base}}}
		if err := e.Diff(t.Context(), "c", func(c Change) error { return fmt.Errorf("told %v", c) }); err != nil {
			t.Error(err)
		}
	})
	t.Run("who is told ends it", func(t *testing.T) {
		e := &Explainer{Pods: &fake{upper: tree(t, "a", "b"), lower: []string{base}}}
		enough, told := errors.New("enough"), 0
		if err := e.Diff(t.Context(), "c", func(Change) error { told++; return enough }); !errors.Is(err, enough) || told != 1 {
			t.Errorf("%v after %d", err, told)
		}
	})
}

func TestDiffLooksOnlySoDeep(t *testing.T) {
	upper := tree(t)
	if err := os.MkdirAll(filepath.Join(upper, strings.Repeat("d/", maxDepth+2)), 0o755); err != nil {
		t.Fatal(err)
	}
	e := &Explainer{Pods: &fake{upper: upper}}
	told := 0
	err := e.Diff(t.Context(), "c", func(Change) error { told++; return nil })
	if !errs.Is(err, errs.FailedPrecondition) || told != maxDepth+1 {
		t.Errorf("%d changes, %v", told, err)
	}
}
