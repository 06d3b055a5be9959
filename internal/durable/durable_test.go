package durable_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"fermata/internal/durable"
	"fermata/internal/errs"
)

type pod struct {
	durable.Newer
	ID     string            `json:"id"`
	Labels map[string]string `json:"labels,omitempty"`
	Start  int64             `json:"start"`
}

// place returns where a record goes in a directory of its own.
func place(t *testing.T) string { return filepath.Join(t.TempDir(), "pod.json") }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names lists a record's directory.
func names(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestARecordIsReadAsWritten(t *testing.T) {
	for _, o := range []durable.Options{{}, {Sync: true}} {
		path := place(t)
		want := pod{ID: "a", Labels: map[string]string{"x": "y"}, Start: 1<<62 + 1}
		if err := durable.Write(path, "pod", &want, o); err != nil {
			t.Fatal(err)
		}
		var got pod
		if err := durable.Read(path, "pod", &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v, %v", got, err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode() != 0o600 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
		if n := names(t, path); len(n) != 1 {
			t.Errorf("left beside it: %v", n)
		}
	}
}

func TestAPersonCanReadARecord(t *testing.T) {
	path := place(t)
	if err := durable.Write(path, "pod", pod{ID: "a", Start: 3}, durable.Options{}); err != nil {
		t.Fatal(err)
	}
	want := "{\n\t\"kind\": \"pod\",\n\t\"version\": \"1.0\",\n\t\"id\": \"a\",\n\t\"start\": 3\n}\n"
	if got := read(t, path); got != want {
		t.Errorf("record\n%s, want\n%s", got, want)
	}
	if err := durable.Write(path, "empty", struct{}{}, durable.Options{}); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, path), "{\n\t\"kind\": \"empty\",\n\t\"version\": \"1.0\"\n}\n"; got != want {
		t.Errorf("record %q, want %q", got, want)
	}
}

func TestAMissingRecordIsNotFound(t *testing.T) {
	err := durable.Read(place(t), "pod", &pod{})
	if !errs.Is(err, errs.NotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestABrokenRecordIsSetAsideAndNamed(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "unexpected end"},
		{"torn", `{"kind":"pod","version":"1.0","id":`, "unexpected end"},
		{"no object", `[]`, "cannot unmarshal"},
		{"another kind", `{"kind":"container","version":"1.0"}`, `kind "container", want "pod"`},
		{"another major version", `{"kind":"pod","version":"2.0"}`, "version 2.0, this program knows 1.0"},
		{"no version", `{"kind":"pod"}`, "want major.minor"},
		{"a field of another type", `{"kind":"pod","version":"1.0","start":"x"}`, "cannot unmarshal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := place(t)
			write(t, path, c.text)
			err := durable.Read(path, "pod", &pod{})
			var broken *durable.BrokenError
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), broken.SetAside) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if got := read(t, broken.SetAside); got != c.text || !strings.HasPrefix(broken.SetAside, path+".broken-") {
				t.Errorf("set aside as %s: %q", broken.SetAside, got)
			}
			if n := names(t, path); len(n) != 1 || durable.IsRecord(n[0]) {
				t.Errorf("directory holds %v", n)
			}
		})
	}
}

func TestSettingAsideTwiceKeepsBoth(t *testing.T) {
	path := place(t)
	seen := map[string]bool{}
	for range 20 {
		write(t, path, "x")
		aside, err := durable.Quarantine(path)
		if err != nil || seen[aside] {
			t.Fatalf("set aside as %s, %v", aside, err)
		}
		seen[aside] = true
	}
	if n := names(t, path); len(n) != 20 {
		t.Errorf("%d files", len(n))
	}
	if _, err := durable.Quarantine(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing was set aside: %v", err)
	}
}

func TestFieldsOfANewerMinorVersionAreKept(t *testing.T) {
	path := place(t)
	write(t, path, `{"kind":"pod","version":"1.7","id":"a","start":1,"colour":{"b":[1,2]},"size":1e3}`)
	var p pod
	if err := durable.Read(path, "pod", &p); err != nil {
		t.Fatal(err)
	}
	p.Start = 2
	for _, v := range []any{&p, p} {
		if err := durable.Write(path, "pod", v, durable.Options{}); err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(read(t, path)), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"kind": "pod", "version": "1.7", "id": "a", "start": 2.0, "colour": map[string]any{"b": []any{1.0, 2.0}}, "size": 1000.0}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("rewritten as %v", got)
		}
	}
	// What is unknown in a record of our own version is nobody's.
	write(t, path, `{"kind":"pod","version":"1.0","id":"b","colour":1}`)
	if err := durable.Read(path, "pod", &p); err != nil {
		t.Fatal(err)
	}
	if err := durable.Write(path, "pod", &p, durable.Options{}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); strings.Contains(got, "colour") || strings.Contains(got, "1.7") {
		t.Errorf("rewritten as %s", got)
	}
}

type versioned struct {
	X int `json:"x"`
}

func (versioned) RecordVersion() string { return "3.2" }

func TestARecordMayHaveAVersionOfItsOwn(t *testing.T) {
	path := place(t)
	if err := durable.Write(path, "v", versioned{1}, durable.Options{}); err != nil {
		t.Fatal(err)
	}
	var v versioned
	if err := durable.Read(path, "v", &v); err != nil || v.X != 1 || !strings.Contains(read(t, path), `"3.2"`) {
		t.Errorf("%+v, %v", v, err)
	}
	write(t, path, `{"kind":"v","version":"3.1","x":4}`) // an older minor version
	if err := durable.Read(path, "v", &v); err != nil || v.X != 4 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestWhatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	path := place(t)
	if err := durable.Write(path, "pod", pod{ID: "old"}, durable.Options{}); err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"a channel": struct{ C chan int }{}, "no object": 3} {
		if err := durable.Write(path, "pod", v, durable.Options{}); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if n := names(t, path); len(n) != 1 || !strings.Contains(read(t, path), "old") {
		t.Errorf("directory %v", n)
	}
	if err := durable.Write(filepath.Join(path, "x"), "pod", pod{}, durable.Options{}); err == nil {
		t.Error("written below a file")
	}
	dir := filepath.Join(t.TempDir(), "taken")
	if err := durable.MakeDir(filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Write(dir, "pod", pod{}, durable.Options{}); err == nil {
		t.Error("written over a directory")
	}
	if n := names(t, dir); len(n) != 1 {
		t.Errorf("left beside it: %v", n)
	}
}

// Readers see one of the records, whole, whatever writers do.
func TestReadersSeeWholeRecords(t *testing.T) {
	path := place(t)
	long := map[string]string{"x": strings.Repeat("y", 10000)}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				p := pod{ID: "short"}
				if i%2 == 0 {
					p = pod{ID: "long", Labels: long}
				}
				if err := durable.Write(path, "pod", p, durable.Options{}); err != nil {
					t.Error(err)
				}
				var got pod
				if err := durable.Read(path, "pod", &got); err != nil || (got.ID == "long") != (got.Labels["x"] == long["x"]) {
					t.Errorf("read %.100v, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestWhatKilledWritersLeftIsSwept(t *testing.T) {
	path := place(t)
	write(t, filepath.Join(filepath.Dir(path), ".writing-1-1-pod.json"), "half")
	write(t, path+".broken-1", "x")
	if err := durable.Write(path, "pod", pod{}, durable.Options{}); err != nil {
		t.Fatal(err)
	}
	var records []string
	for _, n := range names(t, path) {
		if durable.IsRecord(n) {
			records = append(records, n)
		}
	}
	if len(records) != 1 || records[0] != "pod.json" {
		t.Errorf("records %v", records)
	}
	if err := durable.Sweep(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if n := names(t, path); len(n) != 2 {
		t.Errorf("after sweeping: %v", n)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"kind":"pod","version":"1.1","id":"a","z":{}}`))
	f.Add([]byte(`{"kind":"pod","version":"1.0","start":3,"labels":{"a":"b"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := place(t)
		write(t, path, string(b))
		var p, again pod
		if durable.Read(path, "pod", &p) != nil {
			return
		}
		if err := durable.Write(path, "pod", &p, durable.Options{}); err != nil {
			t.Fatal(err)
		}
		if err := durable.Read(path, "pod", &again); err != nil || p.ID != again.ID || p.Start != again.Start {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	path := filepath.Join(b.TempDir(), "pod.json")
	for b.Loop() {
		if err := durable.Write(path, "pod", pod{ID: "a", Labels: map[string]string{"x": "y"}}, durable.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
