package volume_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/testkit/leak"
	"fermata/internal/volume"
)

func TestMain(m *testing.M) { leak.Main(m) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyUp copies name of the image at root into a new directory and returns that.
func copyUp(t *testing.T, root, name string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	from, err := linux.OpenDir(root)
	check(t, err)
	defer from.Close()
	to, err := linux.Open(dir, os.O_RDONLY, 0)
	check(t, err)
	defer to.Close()
	return dir, volume.CopyUp(from, name, to)
}

func write(t *testing.T, path, data string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(data), 0o644))
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	check(t, syscall.Lstat(path, &st))
	return &st
}

func TestACopyIsWhatTheImageHas(t *testing.T) {
	root := t.TempDir()
	data := filepath.Join(root, "data")
	write(t, data+"/sub/file", "hello")
	write(t, data+"/program", "run")
	check(t, os.Symlink("/etc/passwd", data+"/link"))
	check(t, os.Link(data+"/sub/file", data+"/same"))
	check(t, syscall.Mkfifo(data+"/fifo", 0o600))
	check(t, syscall.Mknod(data+"/null", syscall.S_IFCHR|0o666, 1<<8|3))
	check(t, os.Lchown(data+"/link", 7, 8))
	check(t, os.Chown(data+"/program", 1000, 1001))
	check(t, syscall.Setxattr(data+"/program", "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	check(t, syscall.Setxattr(data+"/sub", "user.note", []byte("kept"), 0))
	check(t, os.Chmod(data+"/program", 0o755|os.ModeSetuid))
	check(t, os.Chown(data, 33, 34))
	check(t, os.Chmod(data, 0o777|os.ModeSticky))
	holes, err := os.Create(data + "/holes")
	check(t, err)
	check(t, holes.Truncate(64<<20))
	_, err = holes.WriteAt([]byte("end"), 64<<20-3)
	check(t, err)
	check(t, holes.Close())
	old := time.Unix(1000000000, 5)
	check(t, os.Chtimes(data+"/sub/file", old, old))
	check(t, os.Chtimes(data+"/sub", old, old))

	dir, err := copyUp(t, root, "/data")
	check(t, err)
	for _, name := range []string{"", "/sub", "/sub/file", "/program", "/link", "/same", "/fifo", "/null", "/holes"} {
		was, is := stat(t, data+name), stat(t, dir+name)
		if was.Mode != is.Mode || was.Uid != is.Uid || was.Gid != is.Gid || was.Rdev != is.Rdev || was.Mtim != is.Mtim {
			t.Errorf("%s: %+v, want %+v", name, is, was)
		}
		if was.Mode&syscall.S_IFMT == syscall.S_IFREG && was.Size != is.Size {
			t.Errorf("%s: %d bytes, want %d", name, is.Size, was.Size)
		}
	}
	if a, b := stat(t, dir+"/same"), stat(t, dir+"/sub/file"); a.Ino != b.Ino || a.Nlink != 2 {
		t.Error("two names of one file became two files")
	}
	if st := stat(t, dir+"/holes"); st.Blocks*512 > 1<<20 {
		t.Errorf("a file of holes takes %d bytes", st.Blocks*512)
	}
	if to, err := os.Readlink(dir + "/link"); err != nil || to != "/etc/passwd" {
		t.Errorf("link: %q, %v", to, err)
	}
	if b, err := os.ReadFile(dir + "/sub/file"); err != nil || string(b) != "hello" {
		t.Errorf("file: %q, %v", b, err)
	}
	buf := make([]byte, 64)
	if n, err := syscall.Getxattr(dir+"/program", "security.capability", buf); err != nil || n != 20 {
		t.Errorf("file capabilities: %d bytes, %v", n, err)
	}
	if n, err := syscall.Getxattr(dir+"/sub", "user.note", buf); err != nil || string(buf[:n]) != "kept" {
		t.Errorf("attribute of a directory: %v", err)
	}
}

// CVE-2022-23648: a volume's path made the runtime copy the host's files into the container.
func TestNothingOutsideTheImageIsCopied(t *testing.T) {
	host := t.TempDir()
	write(t, host+"/secret", "the host's")
	root := t.TempDir()
	write(t, root+"/inside/file", "the image's")
	write(t, root+"/file", "")
	check(t, os.Symlink(host, root+"/away"))
	check(t, os.Symlink("/inside", root+"/absolute"))
	check(t, os.Symlink(strings.Repeat("../", 30)+"inside", root+"/climbing"))
	check(t, os.Symlink("loop", root+"/loop"))
	check(t, os.MkdirAll(root+"/data", 0o755))
	check(t, os.Symlink(host, root+"/data/link"))
	for name, want := range map[string]string{
		"/missing": "", "/away": "", "/" + strings.Repeat("../", 30) + host: "", "/absolute": "file", "/climbing": "file", "/data": "link",
	} {
		dir, err := copyUp(t, root, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		entries, err := os.ReadDir(dir)
		check(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: copied %q, want %q", name, got, want)
		}
		if st := stat(t, dir); st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			t.Errorf("%s: became something else", name)
		}
	}
	for _, name := range []string{"/file", "/loop"} {
		if _, err := copyUp(t, root, name); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
}

func TestADirectoryTooDeepIsRefused(t *testing.T) {
	root := t.TempDir()
	check(t, os.MkdirAll(root+"/data/"+strings.Repeat("d/", 300), 0o755))
	if _, err := copyUp(t, root, "data"); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("%v, want InvalidArgument", err)
	}
}
