package apparmor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// kernel is a fake: files as in securityfs, and a parser that adds to them what it is given and counts.
type kernel struct {
	*Policy
	t   *testing.T
	dir string
}

func newKernel(t *testing.T, profiles string) *kernel {
	t.Helper()
	k := &kernel{t: t, dir: t.TempDir()}
	k.write("profiles", profiles)
	k.write("current", "unconfined\n")
	k.write("parser", "#!/bin/sh\ncd "+k.dir+"; cat > loaded; echo >> loads\nsed -n 's/^profile \\([^ ]*\\) .*/\\1 (enforce)/p' loaded >> profiles\n")
	k.open()
	return k
}

// open is a daemon's start.
func (k *kernel) open() {
	k.Policy = Open(Options{State: k.dir, Securityfs: k.dir, Parser: k.dir + "/parser", Attribute: k.dir + "/current"})
}

func (k *kernel) write(name, text string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o755); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kernel) loads() int {
	b, _ := os.ReadFile(filepath.Join(k.dir, "loads"))
	return len(b)
}

func TestAProfileIsFoundByItsWholeName(t *testing.T) {
	k := newKernel(t, "one (enforce)\ntwo words (complain)\n/usr/bin/three//sub (enforce)\n")
	for name, want := range map[string]bool{
		"one": true, "on": false, "two words": true, "two": false, "/usr/bin/three//sub": true, "one (enforce)": false, "": false,
	} {
		if has, err := k.Has(name); err != nil || has != want {
			t.Errorf("%q: %v %v, want %v", name, has, err, want)
		}
	}
	os.Remove(filepath.Join(k.dir, "profiles"))
	if _, err := k.Has("one"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("without securityfs: %v", err)
	}
}

func TestTheDefaultProfileIsLoadedWhenItIsNotThereAsItIsNow(t *testing.T) {
	k := newKernel(t, "")
	for _, step := range []struct {
		what   string
		change func()
		loads  int // so far
	}{
		{"nothing is loaded", func() {}, 1},
		{"it is loaded", func() {}, 1},
		{"another daemon starts", k.open, 1},
		{"somebody unloaded it", func() { k.write("profiles", "other (enforce)\n") }, 2},
		{"an older daemon loaded another", func() { k.write("apparmor-default", "profile fermata-default { }") }, 3},
		{"after a reboot somebody's is there", func() { os.Remove(filepath.Join(k.dir, "apparmor-default")) }, 4},
		{"the daemon is confined now", func() { k.write("current", "fermata (enforce)\n") }, 5},
	} {
		step.change()
		if name, err := k.Default(t.Context()); err != nil || name != DefaultName {
			t.Fatalf("%s: %q %v", step.what, name, err)
		}
		if k.loads() != step.loads {
			t.Errorf("%s: loaded %d times, want %d", step.what, k.loads(), step.loads)
		}
	}
}

func TestAParserThatRefusesIsQuoted(t *testing.T) {
	k := newKernel(t, "")
	k.write("parser", "#!/bin/sh\necho syntax error >&2; exit 1\n")
	if _, err := k.Default(t.Context()); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("%v, want the parser's words", err)
	}
}

func TestAMissingParserIsNamed(t *testing.T) {
	k := newKernel(t, "")
	k.o.Parser = filepath.Join(k.dir, "none")
	if _, err := k.Default(t.Context()); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "none") {
		t.Errorf("%v, want an error that names the parser", err)
	}
}

func TestTheProfileTakesSignalsOfTheDaemonsOwn(t *testing.T) {
	for daemon, want := range map[string]string{
		"": "", "unconfined": "", "/usr/bin/fermata": `peer="/usr/bin/fermata"`, `a" peer="b`: `peer="a peer=b"`,
	} {
		text := profileText(daemon)
		if strings.Contains(text, "@") || want == "" && strings.Count(text, "signal (receive)") != 1 || !strings.Contains(text, "signal (receive) "+want) {
			t.Errorf("daemon %q:\n%s", daemon, text)
		}
	}
}
