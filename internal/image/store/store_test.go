package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/errs"
	"fermata/internal/image/store"
)

const (
	hexA = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	hexB = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// layer makes a committed layer with one file.
func layer(t *testing.T, s *store.Store, key, contents string) {
	t.Helper()
	m, err := s.MakeLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Dir(), "f"), []byte(contents), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.Commit(key, store.Layer{Bytes: 1, Implied: []string{""}}); err != nil {
		t.Fatal(err)
	}
}

func TestRecordIsReadBackAsWritten(t *testing.T) {
	s := open(t)
	layer(t, s, hexB, "x")
	if err := s.PutBlob("sha256:"+hexA, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	r := &store.Record{ID: "sha256:" + hexA, Names: []store.Name{{Repository: "a.io/b", Tag: "v1", Digest: "d", At: 5}}, Layers: []store.LayerRef{{Key: hexB, DiffID: "sha256:" + hexB}}}
	if err := s.PutRecord(r, true); err != nil {
		t.Fatal(err)
	}
	got, problems, err := s.Records()
	if err != nil || len(problems) != 0 || len(got) != 1 || got[0].Names[0] != r.Names[0] || got[0].Layers[0] != r.Layers[0] {
		t.Fatalf("got %+v, %v, %v", got, problems, err)
	}
	if text, err := os.ReadFile(filepath.Join(s.Dir(), "records", hexA+".json")); err != nil || strings.Count(string(text), "\n") < 5 {
		t.Errorf("not for people to read: %s, %v", text, err)
	}
	if err := s.DeleteRecord(r.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRecord(r.ID); err != nil {
		t.Errorf("deleting twice: %v", err)
	}
}

func TestNamesThatAreNoDigestsReachNoFile(t *testing.T) {
	s := open(t)
	for _, bad := range []string{"", "sha256:", "sha256:..", "sha256:../../etc/passwd", "sha512:" + hexA, hexA, "sha256:" + strings.ToUpper(hexA)} {
		if err := s.PutBlob(bad, nil); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("put blob %q: %v", bad, err)
		}
		if _, err := s.Blob(bad); !errs.Is(err, errs.NotFound) {
			t.Errorf("blob %q: %v", bad, err)
		}
		if err := s.PutRecord(&store.Record{ID: bad}, false); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("put record %q: %v", bad, err)
		}
	}
	m, err := s.MakeLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Commit("../records", store.Layer{}); err == nil {
		t.Error("a layer with a path for a key was committed")
	}
	if err := m.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestLayerInTheWayIsMovedAndNotMixed(t *testing.T) {
	s := open(t)
	layer(t, s, hexA, "old")
	if err := os.WriteFile(filepath.Join(s.LayerDir(hexA), "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	layer(t, s, hexA, "new")
	entries, err := os.ReadDir(s.LayerDir(hexA))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	left, err := s.Leftovers()
	if err != nil || len(left) != 1 {
		t.Fatalf("left over: %v, %v", left, err)
	}
	if err := s.Discard(left[0]); err != nil {
		t.Fatal(err)
	}
}

func TestTakenLayerIsGoneAtOnce(t *testing.T) {
	s := open(t)
	layer(t, s, "chain-"+hexA, "x")
	away, err := s.TakeLayer("chain-" + hexA)
	if err != nil || away == "" {
		t.Fatal(away, err)
	}
	if keys, err := s.Layers(); err != nil || len(keys) != 0 {
		t.Errorf("layers %v, %v", keys, err)
	}
	if again, err := s.TakeLayer("chain-" + hexA); again != "" || err != nil {
		t.Errorf("again: %q, %v", again, err)
	}
	if err := s.Discard(away); err != nil {
		t.Fatal(err)
	}
}

func FuzzRecords(f *testing.F) {
	f.Add(`{"version":1,"id":"sha256:` + hexA + `","layers":[{"key":"` + hexB + `"}]}`)
	f.Add(`{"version":1,"id":"sha256:` + hexA + `","layers":[{"key":"../../x"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s := open(t)
		layer(t, s, hexB, "x")
		if err := s.PutBlob("sha256:"+hexA, nil); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir(), "records", hexA+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		records, problems, err := s.Records()
		if err != nil || len(records)+len(problems) != 1 {
			t.Fatalf("%q: %v, %v, %v", text, records, problems, err)
		}
		for _, r := range records {
			for _, l := range r.Layers {
				if strings.ContainsAny(l.Key, "/.") {
					t.Fatalf("%q: key %q", text, l.Key)
				}
			}
		}
	})
}
