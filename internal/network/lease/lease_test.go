package lease

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"fermata/internal/errs"
)

func open(t *testing.T, dir string, ranges ...string) *Store {
	t.Helper()
	s, broken, err := Open(dir)
	if err != nil || len(broken) != 0 {
		t.Fatal(broken, err)
	}
	setRanges(t, s, ranges...)
	return s
}

func setRanges(t *testing.T, s *Store, ranges ...string) {
	t.Helper()
	var all []netip.Prefix
	for _, r := range ranges {
		all = append(all, netip.MustParsePrefix(r))
	}
	if err := s.SetRanges(all); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, s *Store, id string) string {
	t.Helper()
	r := &Record{SandboxID: id}
	if err := errors.Join(s.Take(r), s.Save(r)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(r.Addresses)
}

func TestAddressesAndTheirOrder(t *testing.T) {
	s := open(t, t.TempDir(), "10.1.0.0/29", "fd00::/64")
	for i, want := range []string{"[10.1.0.2/29 fd00::2/64]", "[10.1.0.3/29 fd00::3/64]", "[10.1.0.4/29 fd00::4/64]", "[10.1.0.5/29 fd00::5/64]", "[10.1.0.6/29 fd00::6/64]"} {
		if got := take(t, s, fmt.Sprint("pod", i)); got != want {
			t.Errorf("pod%d got %s, want %s", i, got, want)
		}
	}
	if gateways := s.Get("pod0").Gateways; fmt.Sprint(gateways) != "[10.1.0.1 fd00::1]" {
		t.Errorf("gateways %v", gateways)
	}
	err := s.Take(&Record{SandboxID: "one too many"})
	if !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("one too many: %v", err)
	}
	if size, used := s.Size(); size != 5 || used != 5 {
		t.Errorf("%d of %d", used, size)
	}
	if err := s.Take(&Record{SandboxID: "pod1"}); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("twice for one: %v", err)
	}
	for _, id := range []string{"pod3", "pod1", "unknown"} {
		if err := s.Drop(id); err != nil {
			t.Error(err)
		}
	}
	for i, want := range []string{"[10.1.0.3/29 fd00::3/64]", "[10.1.0.5/29 fd00::5/64]"} { // the round goes on
		if got := take(t, s, fmt.Sprint("new", i)); got != want {
			t.Errorf("new%d got %s, want %s", i, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for _, c := range []struct {
		ranges []string
		want   uint64
	}{
		{[]string{"10.0.0.0/16"}, 65533},
		{[]string{"10.0.0.0/30"}, 1},
		{[]string{"10.0.0.0/31"}, 0},
		{[]string{"10.0.0.0/32"}, 0},
		{[]string{"fd00::/126"}, 2},
		{[]string{"fd00::/128"}, 0},
		{[]string{"fd00::/64"}, most},
		{[]string{"10.0.0.0/8"}, most},
		{[]string{"10.0.0.0/16", "fd00::/120"}, 254},
		{nil, 0},
	} {
		var all []netip.Prefix
		for _, r := range c.ranges {
			all = append(all, netip.MustParsePrefix(r))
		}
		if got := Count(all); got != c.want {
			t.Errorf("Count(%v) = %d, want %d", c.ranges, got, c.want)
		}
	}
}

// Whatever number of addresses were given before, a restart must not give any of them before the round is over.
func TestTheRoundGoesOnAfterARestart(t *testing.T) {
	for _, before := range []int{1, 2, ahead - 1, ahead, ahead + 1, 3 * ahead} {
		dir, seen := t.TempDir(), map[string]bool{}
		s := open(t, dir, "10.1.0.0/16")
		for i := range before {
			seen[take(t, s, fmt.Sprint(i))] = true
			s.Drop(fmt.Sprint(i))
		}
		for restart := range 3 {
			s = open(t, dir, "10.1.0.0/16")
			got := take(t, s, "new")
			if seen[got] {
				t.Errorf("%d before, restart %d: %s was given before", before, restart, got)
			}
			seen[got] = true
			s.Drop("new")
		}
	}
}

func TestSmallRangesAreUsedWhollyOverRestarts(t *testing.T) {
	dir, seen := t.TempDir(), map[string]bool{}
	for i := range 5 {
		s := open(t, dir, "10.1.0.0/29")
		seen[take(t, s, fmt.Sprint(i))] = true
	}
	if len(seen) != 5 {
		t.Errorf("given: %v", seen)
	}
}

func TestLeasesSurviveRestartsAndChangesOfTheRange(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "10.1.0.0/24")
	had := take(t, s, "kept")
	s = open(t, dir, "10.1.0.0/29") // which the lease lies in
	if got := s.Get("kept"); got == nil || fmt.Sprint(got.Addresses) != had {
		t.Fatalf("lease after restart: %+v, had %s", got, had)
	}
	for i := range 4 {
		if got := take(t, s, fmt.Sprint(i)); strings.HasPrefix(got, "[10.1.0.2/") {
			t.Errorf("%d got %s, which is leased", i, got)
		}
	}
	if err := s.Take(&Record{SandboxID: "x"}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("an address of two: %v", err)
	}
}

func TestConcurrentUseGivesNoAddressTwice(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "10.1.0.0/24", "fd00::/64")
	var mu sync.Mutex
	owners := map[netip.Addr]string{}
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := range 50 {
				id := fmt.Sprintf("%d-%d", w, i)
				r := &Record{SandboxID: id}
				if err := errors.Join(s.Take(r), s.Save(r)); err != nil {
					t.Error(err)
					return
				}
				for _, ip := range r.IPs() {
					mu.Lock()
					if owners[ip] != "" {
						t.Errorf("%s belongs to %s and %s", ip, owners[ip], id)
					}
					owners[ip] = id
					mu.Unlock()
				}
				mu.Lock()
				for _, ip := range r.IPs() {
					delete(owners, ip)
				}
				mu.Unlock()
				if err := s.Drop(id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if files, _ := os.ReadDir(filepath.Join(dir, "leases")); len(files) != 0 || len(s.All()) != 0 {
		t.Errorf("left: %v, %v", files, s.All())
	}
}

func TestBrokenFilesCostOneLeaseEach(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "10.1.0.0/24")
	for _, id := range []string{"cut", "renamed", "kept", "evil"} {
		take(t, s, id)
	}
	path := func(id string) string { return filepath.Join(dir, "leases", id+".json") }
	whole, err := os.ReadFile(path("cut"))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(path("kept"))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(path("cut"), whole[:len(whole)/2], 0o600),
		os.Rename(path("renamed"), path("other")),
		os.WriteFile(path("zz"), []byte(strings.ReplaceAll(string(kept), `"kept"`, `"zz"`)), 0o600), // claims an address of another
		os.WriteFile(path("evil"), []byte(strings.ReplaceAll(string(kept), `"kept"`, `"../evil"`)), 0o600),
		os.WriteFile(filepath.Join(dir, "leases", "notes.txt"), []byte("not ours"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	s, broken, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(broken) != 4 || len(s.All()) != 1 || s.Get("kept") == nil {
		t.Errorf("broken: %q; leases %v", broken, s.All())
	}
	if _, broken, err = Open(dir); err != nil || len(broken) != 0 {
		t.Errorf("told again: %q, %v", broken, err)
	}
}

func TestAPositionThatCannotBeReadBeginsTheRoundAnew(t *testing.T) {
	dir := t.TempDir()
	take(t, open(t, dir, "10.1.0.0/24"), "a")
	if err := os.WriteFile(filepath.Join(dir, nextName), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := take(t, open(t, dir, "10.1.0.0/24"), "b"); got != "[10.1.0.3/24]" {
		t.Errorf("got %s", got)
	}
}

// A daemon that is killed between writing and renaming leaves nothing for ever, neither of a lease nor of the position.
func TestWhatAKilledWriterLeftIsSweptAway(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			left = append(left, filepath.Join(path, ".writing-1-1-next.json"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
