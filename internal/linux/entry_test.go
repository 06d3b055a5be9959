package linux_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fermata/internal/linux"
)

// folder opens a fresh directory for its entries.
func folder(t *testing.T) (*linux.FD, string) {
	t.Helper()
	dir := t.TempDir()
	f, err := linux.Open(dir, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, dir
}

func TestEntriesMeanNothingOutsideTheirDirectory(t *testing.T) {
	f, _ := folder(t)
	now := time.Now()
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc/passwd"} {
		for what, err := range map[string]error{
			"mkdir":   f.MakeDirEntry(name, 0o700),
			"mknod":   f.MakeNodeEntry(name, linux.TypeFIFO|0o600, 0, 0),
			"symlink": f.SymlinkEntry("x", name),
			"link":    f.LinkEntry(f, name, "new"),
			"link to": f.LinkEntry(f, "old", name),
			"remove":  f.RemoveEntry(name),
			"tree":    f.RemoveTreeEntry(name),
			"chown":   f.ChownEntry(name, 0, 0),
			"chmod":   f.ChmodEntry(name, 0o777),
			"times":   f.SetTimesEntry(name, now),
		} {
			if !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
		if _, err := f.CreateEntry(name, 0o600); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("create %q: %v", name, err)
		}
		if _, err := f.OpenEntry(name, os.O_RDONLY); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("open %q: %v", name, err)
		}
	}
}

func TestEntriesAreNotFollowed(t *testing.T) {
	f, dir := folder(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after syscall.Stat_t
	if err := syscall.Stat(outside, &before); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.OpenEntry("l", os.O_RDONLY); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("open: %v", err)
	}
	if err := f.ChmodEntry("l", 0o777); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("chmod: %v", err)
	}
	if err := errors.Join(f.ChownEntry("l", 7, 7), f.SetTimesEntry("l", time.Unix(1, 0)), f.LinkEntry(f, "l", "l2")); err != nil {
		t.Error(err)
	}
	link, err := f.OpenEntry("l", unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	if err := link.SetXattr("trusted.fermata", "on the link"); err != nil {
		t.Error(err)
	}
	if v, err := link.Xattr("trusted.fermata"); v != "on the link" || err != nil {
		t.Errorf("attribute of the link: %q, %v", v, err)
	}
	if st, err := f.StatEntry("l2"); err != nil || !st.IsSymlink() || st.UID != 7 || st.Links != 2 {
		t.Errorf("the link itself: %+v, %v", st, err)
	}
	if err := f.RemoveTreeEntry("l"); err != nil {
		t.Error(err)
	}
	if err := syscall.Stat(outside, &after); err != nil || after != before {
		t.Errorf("what the link led to: %+v, was %+v (%v)", after, before, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
}

func TestTreeIsRemovedWhateverIsInIt(t *testing.T) {
	f, dir := folder(t)
	for _, d := range []string{"a/b/c", "a/empty"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/", filepath.Join(dir, "a/l")), os.WriteFile(filepath.Join(dir, "a/b/c/f"), nil, 0), os.Chmod(filepath.Join(dir, "a/b"), 0),
		f.MakeNodeEntry("node", linux.TypeCharacter|0o600, 1, 3)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.RemoveTreeEntry("a"), f.RemoveTreeEntry("node"), f.RemoveTreeEntry("nothing")); err != nil {
		t.Fatal(err)
	}
	if names, err := f.EntryNames(); err != nil || len(names) != 0 {
		t.Errorf("left %q, %v", names, err)
	}
}

func TestWhiteoutIsTold(t *testing.T) {
	f, _ := folder(t)
	if err := errors.Join(f.MakeNodeEntry("w", linux.TypeCharacter, 0, 0), f.MakeNodeEntry("n", linux.TypeCharacter, 1, 3)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"w": true, "n": false} {
		if st, err := f.StatEntry(name); err != nil || st.IsWhiteout() != want {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
}

func TestLongAttributesAreReadWhole(t *testing.T) {
	f, _ := folder(t)
	want := strings.Repeat("x", 1000)
	if err := f.SetXattr("user.long", want); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Xattr("user.long"); err != nil || got != want {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := f.Xattr("user.none"); err != nil || got != "" {
		t.Errorf("one that is not there: %q, %v", got, err)
	}
	if names, err := f.Xattrs(); err != nil || len(names) != 1 || names[0] != "user.long" {
		t.Errorf("names %q, %v", names, err)
	}
}

func TestSubdirectoriesAreSpreadWhereTheFilesystemCan(t *testing.T) {
	f, _ := folder(t)
	for range 2 {
		if err := f.SpreadSubdirectories(); err != nil {
			t.Fatal(err)
		}
	}
	const ext4, topdir = 0xef53, 0x20000
	if magic, err := f.FilesystemMagic(); err != nil || magic != ext4 {
		t.Logf("not on ext4 (%x, %v): nothing more to see", magic, err)
		return
	}
	if flags, err := unix.IoctlGetInt(f.Int(), unix.FS_IOC_GETFLAGS); err != nil || flags&topdir == 0 {
		t.Errorf("flags %x, %v", flags, err)
	}
}
