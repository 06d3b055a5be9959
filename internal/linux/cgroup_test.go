package linux_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"fermata/internal/linux"
)

func TestWaitingForAProcessEndsWithItOrWithTheContext(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	f, err := linux.OpenPidfd(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() { waited <- f.AwaitReadable(ctx) }()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
	if err := f.AwaitReadable(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that began too late: %v", err)
	}
	go func() { waited <- f.AwaitReadable(t.Context()) }()
	cmd.Process.Kill()
	if err := <-waited; err != nil {
		t.Errorf("a process that ended: %v", err)
	}
	if err := f.AwaitReadable(context.Background()); err != nil {
		t.Errorf("one that had ended, without a context that ends: %v", err)
	}
}

func TestAFileSystemBelowAnotherIsNotEntered(t *testing.T) {
	proc, err := linux.OpenDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if f, err := proc.OpenSameMount("version", os.O_RDONLY); err != nil {
		t.Errorf("a plain file: %v", err)
	} else {
		f.Close()
	}
	if f, err := proc.OpenSameMount("self/comm", os.O_RDONLY); !errors.Is(err, syscall.ELOOP) {
		f.Close()
		t.Errorf("through a link: %v", err)
	}
	root, err := linux.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for path, want := range map[string]error{"proc/version": syscall.EXDEV, "../etc": syscall.EXDEV} {
		if f, err := root.OpenSameMount(path, os.O_RDONLY); !errors.Is(err, want) {
			f.Close()
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestDirectoriesByPath(t *testing.T) {
	dir := t.TempDir()
	f, err := linux.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range []string{"a", "a/b", "a/c"} {
		if err := f.MkdirPath(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.MkdirPath("none/b", 0o755); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("below nothing: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	names, err := f.Subdirectories("a")
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"b", "c"}) {
		t.Errorf("%v, %v", names, err)
	}
	if err := f.RmdirPath("a"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("remove a full one: %v", err)
	}
	if err := f.RmdirPath("a/b"); err != nil {
		t.Error(err)
	}
}
