package linux

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFDIsClosedOnce(t *testing.T) {
	f, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dup, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	if dup.Int() == f.Int() || dup.Name() != f.Name() {
		t.Errorf("duplicate %v of %v", dup, f)
	}
	if err := CloseAll(f, dup, nil); err != nil {
		t.Fatal(err)
	}
	if f.Int() != -1 || f.Close() != nil {
		t.Error("a closed FD closes again")
	}
}

func TestOpenStaysInside(t *testing.T) {
	dir := t.TempDir()
	for link, to := range map[string]string{"abs": "/etc/hostname", "up": "../../../etc/hostname", "in": "f"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("inside"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, c := range []struct {
		name, path string
		open       func(string, int, os.FileMode) (*FD, error)
		want       error
	}{
		{"beneath refuses an absolute link", "abs", root.OpenBeneath, syscall.EXDEV},
		{"beneath refuses a way up", "up", root.OpenBeneath, syscall.EXDEV},
		{"beneath follows a link inside", "in", root.OpenBeneath, nil},
		{"in-root keeps an absolute link inside", "abs", root.OpenInRoot, syscall.ENOENT},
		{"in-root keeps a way up inside", "up", root.OpenInRoot, syscall.ENOENT},
		{"in-root follows a link inside", "in", root.OpenInRoot, nil},
		{"no-links refuses any link", "in", root.OpenNoLinks, syscall.ELOOP},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := c.open(c.path, os.O_RDONLY, 0)
			if !errors.Is(err, c.want) {
				t.Fatalf("opened with error %v, want %v", err, c.want)
			}
			if err != nil {
				return
			}
			defer f.Close()
			if b, err := f.ReadAll(6); err != nil || string(b) != "inside" {
				t.Errorf("read %q, %v", b, err)
			}
		})
	}
}

func TestReadAllRefusesMoreThanItsLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("1234567"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAll(6); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("error %v, want EFBIG", err)
	}
}

func TestLeakTraceNamesWhoOpened(t *testing.T) {
	TraceFDs()
	defer tracing.on.Store(false)
	f, err := OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if open := OpenFDs(); len(open) != 1 || !strings.Contains(open[0], "TestLeakTraceNamesWhoOpened") {
		t.Errorf("open descriptors: %q", open)
	}
	f.Close()
	if open := OpenFDs(); len(open) != 0 {
		t.Errorf("open after closing: %q", open)
	}
}

func TestSealedMemoryCannotBeChanged(t *testing.T) {
	f, err := SealedMemory("test", []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("more")); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write to sealed memory: %v, want EPERM", err)
	}
}

func TestNewMountSaysWhatTheKernelSays(t *testing.T) {
	m, err := NewMount("tmpfs", MountNoSuid|MountNoDev, Option{Key: "size", Value: "64k"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	f, err := m.OpenBeneath("file", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewMount("tmpfs", 0, Option{Key: "nonsense", Value: "1"}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("bad option: %v", err)
	}
}
