package archtest

import (
	"go/ast"
	"strings"
	"testing"
)

// entry is a word of order.txt: a directory and how high its line stands.
type entry struct {
	dir  string
	rank int
}

func order(t *testing.T, r *repository) []entry {
	t.Helper()
	var all []entry
	rank := 0
	for line := range strings.Lines(r.read(t, "internal/archtest/order.txt")) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		for _, w := range words {
			dir := "internal/" + w
			if strings.HasPrefix(w, "/") {
				dir = w[1:]
			}
			all = append(all, entry{dir, rank})
		}
		if len(words) > 0 {
			rank++
		}
	}
	return all
}

// find returns the longest entry that pkg is or lies below.
func find(all []entry, pkg string) (entry, bool) {
	var best entry
	for _, e := range all {
		if below(pkg, e.dir) && len(e.dir) > len(best.dir) {
			best = e
		}
	}
	return best, best.dir != ""
}

// forTests are packages that only tests and other such packages may import; they may import everything.
func forTests(pkg string) bool {
	return below(pkg, "internal/testkit") || below(pkg, "internal/archtest") || below(pkg, "test")
}

func TestPackagesImportInOneDirection(t *testing.T) {
	r := open(t)
	all := order(t, r)
	for _, s := range r.sources {
		if s.test || forTests(s.pkg) {
			continue
		}
		from, ok := find(all, s.pkg)
		if !ok {
			t.Errorf("%s: package %s has no place in internal/archtest/order.txt", s.path, s.pkg)
			continue
		}
		s.imports(func(spec *ast.ImportSpec, _, dir string) {
			if dir == "" {
				return
			}
			if forTests(dir) {
				t.Errorf("%s: imports %s, which is for tests", s.line(r.fset, spec), dir)
				return
			}
			if to, _ := find(all, dir); to.rank >= from.rank && to != from {
				t.Errorf("%s: %s imports %s, which does not stand above it in internal/archtest/order.txt", s.line(r.fset, spec), s.pkg, dir)
			}
		})
	}
}

// ban forbids imports; the reason is told to whom it stops.
type ban struct {
	what string
	// in are the directories it holds for ("" = everywhere), but the ones it does not.
	in, but []string
	// of reports whether an import is meant.
	of     func(whole, dir string) bool
	reason string
	// tests, too
	tests bool
}

func ours(dirs ...string) func(string, string) bool {
	return func(_, dir string) bool {
		for _, d := range dirs {
			if below(dir, d) {
				return true
			}
		}
		return false
	}
}

func exactly(paths ...string) func(string, string) bool {
	return func(whole, _ string) bool {
		for _, p := range paths {
			if below(whole, p) {
				return true
			}
		}
		return false
	}
}

// bans are what the order alone does not forbid.
var bans = []ban{
	{what: "system calls", but: []string{"internal/linux", "internal/launch"}, of: exactly("golang.org/x/sys/unix"),
		reason: "every system call is in internal/linux, where EINTR, O_CLOEXEC and ownership of descriptors are seen to once"},
	{what: "the pod's servants", in: []string{"internal/pod"},
		of:     ours("internal/image", "internal/network", "internal/engine", "internal/keeper", "internal/durable"),
		reason: "pod declares what it needs, daemon wires it in"},
	{what: "anything but its few", in: []string{"internal/keeper", "cmd/fermata-keeper"}, but: []string{"internal/keeper/client"},
		of: func(whole, dir string) bool {
			third := dir == "" && strings.Contains(strings.Split(whole, "/")[0], ".")
			return third || dir != "" && !ours("internal/linux", "internal/durable", "internal/logs", "internal/launch/report", "internal/errs",
				"internal/undo", "internal/keeper", "internal/suggest")("", dir)
		},
		reason: "the keeper outlives every daemon and holds every pod: it stays tiny and parses nothing foreign"},
	{what: "the keeper's other side", in: []string{"internal/keeper/client"}, of: exactly("google.golang.org/grpc"),
		reason: "the keeper speaks its own wire"},
	{what: "the world", in: []string{"internal/spec"}, of: exactly("os", "time", "fermata/internal/linux", "net", "syscall/js"),
		reason: "spec is pure: the same request and facts are the same OCI spec, so that goldens and fuzzers can hold it"},
	{what: "gRPC", but: []string{"api", "internal/cri", "internal/cli", "internal/cadvisor", "internal/daemon", "internal/service", "internal/stream", "internal/testkit", "test"},
		of: exactly("google.golang.org/grpc"), reason: "gRPC is at the edge; everything behind it speaks errs kinds"},
	{what: "cgo", of: exactly("C", "runtime/cgo"), tests: true, reason: "one static binary for every distribution"},
	{what: "the old log", but: []string{"internal/testkit"}, of: func(whole, _ string) bool { return whole == "log" }, reason: "log/slog, at the edges only"},
}

func TestBannedImports(t *testing.T) {
	r := open(t)
	holds := func(b ban, pkg string) bool {
		for _, d := range b.but {
			if below(pkg, d) {
				return false
			}
		}
		for _, d := range b.in {
			if below(pkg, d) {
				return true
			}
		}
		return len(b.in) == 0
	}
	for _, b := range bans {
		t.Run(b.what, func(t *testing.T) {
			for _, s := range r.sources {
				if s.test && !b.tests || !holds(b, s.pkg) {
					continue
				}
				s.imports(func(spec *ast.ImportSpec, whole, dir string) {
					if b.of(whole, dir) {
						t.Errorf("%s: %s must not import %s: %s", s.line(r.fset, spec), s.pkg, whole, b.reason)
					}
				})
			}
		})
	}
}
