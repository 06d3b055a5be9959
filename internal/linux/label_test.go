package linux_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"fermata/internal/linux"
)

func TestATreeIsLabelledAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	volume, outside := filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	if err := os.MkdirAll(volume+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{volume + "/file", volume + "/a/b/file", outside} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, volume+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(volume+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"u:r:one:s0", "u:r:two:s0:c1,c2"} {
		f, err := linux.OpenPath(volume)
		if err != nil {
			t.Fatal(err)
		}
		err = f.LabelTree(label)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{volume, volume + "/a/b", volume + "/file", volume + "/a/b/file", volume + "/fifo", volume + "/link"} {
			if got := labelAt(t, path); got != label {
				t.Errorf("%s: label %q, want %q", path, got, label)
			}
		}
		if got := labelAt(t, outside); got != "" {
			t.Errorf("what a link leads to has label %q", got)
		}
	}
}

func TestATreeWithoutEndIsNotLabelled(t *testing.T) {
	path := t.TempDir()
	f, err := linux.OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 600 {
		path += "/d"
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.LabelTree("u:r:t:s0"); err == nil {
		t.Error("600 directories deep: no error")
	}
}

// labelAt is the label of what is at a path, links not followed.
func labelAt(t *testing.T, path string) string {
	t.Helper()
	dir, err := linux.OpenDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const onlyPath = 0x200000 // O_PATH
	f, err := dir.OpenEntry(filepath.Base(path), onlyPath)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	label, err := f.Label()
	if err != nil {
		t.Fatal(err)
	}
	return label
}
