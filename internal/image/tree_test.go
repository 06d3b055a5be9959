package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"fermata/internal/image"
	"fermata/internal/linux"
)

// capability is security.capability for cap_net_bind_service=ep, VFS_CAP_REVISION_2.
var capability = string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})

// tree describes an image's merged tree, mounted as a container would have it but seen by nobody.
func tree(t *testing.T, s *image.Store, ref string) map[string]string {
	t.Helper()
	lowers := s.Lowers(resolve(t, s, ref))
	if len(lowers) == 1 {
		return describe(t, lowers[0])
	}
	var options []linux.Option
	for _, l := range lowers {
		options = append(options, linux.Option{Key: "lowerdir+", Value: l})
	}
	m, err := linux.NewMount("overlay", linux.MountReadOnly, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return describe(t, m.Path()+"/.")
}

// describe says of every path below a directory all that an image can say.
func describe(t *testing.T, root string) map[string]string {
	t.Helper()
	all, links := map[string]string{}, map[string][]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		all[rel], err = line(p, rel, links)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range links {
		for _, n := range names[1:] {
			all[n] += " same as " + names[0]
		}
	}
	return all
}

func line(p, rel string, links map[string][]string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(p, &st); err != nil {
		return "", err
	}
	s := fmt.Sprintf("mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		b, err := os.ReadFile(p)
		if err != nil {
			return "", err
		}
		s += fmt.Sprintf(" size %d content %x", len(b), sha256.Sum256(b))
	case syscall.S_IFLNK:
		target, err := os.Readlink(p)
		if err != nil {
			return "", err
		}
		s += " to " + target
	case syscall.S_IFCHR, syscall.S_IFBLK:
		s += fmt.Sprintf(" device %x", st.Rdev)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		s += fmt.Sprintf(" at %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		if st.Nlink > 1 {
			id := fmt.Sprint(st.Dev, ":", st.Ino)
			links[id] = append(links[id], rel)
		}
	}
	e, err := linux.OpenPath(filepath.Dir(p))
	if err != nil {
		return "", err
	}
	defer e.Close()
	if rel == "." {
		return s, nil
	}
	f, err := e.OpenEntry(filepath.Base(p), 0x200000) // O_PATH
	if err != nil {
		return "", err
	}
	defer f.Close()
	names, err := f.Xattrs()
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	for _, n := range names {
		if strings.HasPrefix(n, "trusted.overlay.") || n == "security.selinux" {
			continue
		}
		v, err := f.Xattr(n)
		if err != nil {
			return "", err
		}
		s += fmt.Sprintf(" %s=%x", n, v)
	}
	return s, nil
}

func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	var differ []string
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got[p] != want[p] {
			differ = append(differ, fmt.Sprintf("%s:\n got %s\nwant %s", p, got[p], want[p]))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if want[p] == "" {
			differ = append(differ, fmt.Sprintf("%s: should not be there: %s", p, got[p]))
		}
	}
	if len(differ) > 0 {
		t.Errorf("%d paths differ, the first:\n%s", len(differ), strings.Join(differ[:min(5, len(differ))], "\n"))
	}
}

// sequential unpacks layers one after the other into a plain directory, as the image specification tells it and with nothing of fermata's in it: the yardstick.
func sequential(t *testing.T, root string, archives ...[]byte) {
	t.Helper()
	for _, a := range archives {
		for _, pass := range []func(string, *tar.Header, io.Reader) error{hide, extract} {
			r := tar.NewReader(bytes.NewReader(a))
			for {
				h, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(h.Name, ".wh..wh.") && h.Name != ".wh..wh..opq" {
					continue // AUFS's own
				}
				if err := pass(root, h, r); err != nil {
					t.Fatalf("%s: %v", h.Name, err)
				}
			}
		}
	}
}

// inside is the real path of a name in a tree, links in its directory followed as a process with that root would.
func inside(root, name string) string {
	name = path.Clean("/" + name)
	dir := "/"
	todo := strings.Split(strings.Trim(path.Dir(name), "/"), "/")
	for n := 0; len(todo) > 0 && n < 2000; n++ {
		c := todo[0]
		todo = todo[1:]
		if c == "" {
			continue
		}
		next := path.Join(dir, c)
		if target, err := os.Readlink(filepath.Join(root, next)); err == nil {
			todo = append(strings.Split(target, "/"), todo...)
			if strings.HasPrefix(target, "/") {
				dir = "/"
			}
			continue
		}
		dir = next
	}
	return filepath.Join(root, dir, path.Base(name))
}

func hide(root string, h *tar.Header, _ io.Reader) error {
	base := path.Base(h.Name)
	if base == ".wh..wh..opq" {
		dir := filepath.Dir(inside(root, h.Name))
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	} else if name, ok := strings.CutPrefix(base, ".wh."); ok && !strings.HasPrefix(base, ".wh..wh.") {
		return os.RemoveAll(filepath.Join(filepath.Dir(inside(root, h.Name)), name))
	}
	return nil
}

func extract(root string, h *tar.Header, r io.Reader) error {
	p := inside(root, h.Name)
	if strings.HasPrefix(path.Base(h.Name), ".wh.") {
		return os.MkdirAll(filepath.Dir(p), 0o755)
	}
	if path.Clean(h.Name) == "." {
		p = root
	} else if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if st, err := os.Lstat(p); err == nil && !(st.IsDir() && h.Typeflag == tar.TypeDir) {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	if err := create(root, p, h, r); err != nil || h.Typeflag == tar.TypeLink {
		return err
	}
	if err := os.Lchown(p, h.Uid, h.Gid); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := syscall.Chmod(p, uint32(h.Mode)); err != nil {
			return err
		}
	}
	// What a directory's default ACL hands on is not what the archive says.
	if err := syscall.Removexattr(p, "system.posix_acl_access"); err != nil && !errors.Is(err, syscall.ENODATA) && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	for k, v := range h.PAXRecords {
		if n, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if err := syscall.Setxattr(p, n, []byte(v), 0); err != nil {
				return err
			}
		}
	}
	dir, err := linux.OpenPath(filepath.Dir(p))
	if err != nil {
		return err
	}
	return errors.Join(dir.SetTimesEntry(filepath.Base(p), h.ModTime), dir.Close())
}

func create(root, p string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case tar.TypeReg, tar.TypeGNUSparse:
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	case tar.TypeLink:
		return os.Link(inside(root, h.Linkname), p)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, p)
	case tar.TypeChar:
		return syscall.Mknod(p, syscall.S_IFCHR, int(h.Devmajor<<8|h.Devminor))
	case tar.TypeBlock:
		return syscall.Mknod(p, syscall.S_IFBLK, int(h.Devmajor<<8|h.Devminor))
	case tar.TypeFifo:
		return syscall.Mknod(p, syscall.S_IFIFO, 0)
	}
	return fmt.Errorf("type %q", h.Typeflag)
}
