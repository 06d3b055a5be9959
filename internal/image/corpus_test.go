package image_test

import (
	"archive/tar"
	"bytes"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fermata/internal/image"
	"fermata/internal/linux"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

type entries = []handmade.Entry

// corpus are stacks of layers that are easily got wrong, base first.
var corpus = map[string][]entries{
	"files, modes, owners, setuid and times": {
		{handmade.Dir("."), handmade.Dir("bin").Moded(0o711), handmade.File("bin/su", "x").Moded(0o4755).Owned(0, 7), handmade.File("sg", "").Moded(0o2755).Owned(1, 2),
			handmade.Dir("tmp").Moded(0o1777), handmade.Dir("sgid").Moded(0o2775).Owned(0, 50), handmade.File("sgid/f", "y").Owned(1000, 1000),
			handmade.File("none", "").Moded(0)},
	},
	"every kind of entry": {
		{handmade.Symlink("l", "../../etc/passwd"), handmade.Symlink("dangling", "nowhere"), handmade.FIFO("p").Moded(0o622), handmade.Device(tar.TypeChar, "null", 1, 3).Moded(0o666),
			handmade.Device(tar.TypeBlock, "sda", 8, 0).Owned(0, 6), handmade.File("empty", ""), handmade.File("big", strings.Repeat("0123456789", 100_000)),
			handmade.Symlink("long", strings.Repeat("a/", 100))},
	},
	"extended attributes": {
		{handmade.File("ping", "x").Moded(0o755).Xattr("security.capability", capability), handmade.File("u", "x").Xattr("user.note", "hello\x00there"),
			handmade.Dir("acl").Xattr("system.posix_acl_default", acl), handmade.File("acl/child", "not inherited")},
		{handmade.File("acl/later", "nor here")},
	},
	"hard links in one layer, also to a symbolic link": {
		{handmade.File("a", "x"), handmade.Hard("b", "a"), handmade.Hard("d/c", "./b"), handmade.Symlink("s", "a"), handmade.Hard("s2", "s")},
	},
	"a hard link to a file of a lower layer": {
		{handmade.Dir("d").Moded(0o700), handmade.File("d/a", "x").Moded(0o640).Owned(5, 6)},
		{handmade.Hard("e/c", "d/a"), handmade.File("own", "y")},
		{handmade.File("d/a", "changed")},
	},
	"a path through a symbolic link of a lower layer": {
		{handmade.Dir("usr"), handmade.Dir("usr/lib").Moded(0o750).Owned(1, 1), handmade.Symlink("lib", "usr/lib"), handmade.File("usr/lib/a", "1"), handmade.File("usr/lib/gone", "")},
		{handmade.File("lib/b", "2"), handmade.Hard("lib/c", "usr/lib/a"), handmade.Whiteout("lib/gone")},
		{handmade.File("usr/lib/d", "3")},
	},
	"a path through an absolute link of two layers below": {
		{handmade.Dir("data/real"), handmade.Symlink("srv", "/data")},
		{handmade.File("other", "")},
		{handmade.File("srv/real/f", "x"), handmade.File("srv/new/g", "y")},
	},
	"a path through a symbolic link of the same layer": {
		{handmade.Dir("usr/lib"), handmade.Symlink("lib", "usr/lib"), handmade.File("lib/a", "1"), handmade.Hard("b", "lib/a")},
	},
	"a path through a link to what is not there yet": {
		{handmade.Symlink("lib", "usr/lib")},
		{handmade.File("lib/a", "1")},
	},
	"whiteouts of files, directories and what is not there": {
		{handmade.File("a", ""), handmade.Dir("d"), handmade.File("d/x", ""), handmade.File("d/e/y", ""), handmade.File("keep", "")},
		{handmade.Whiteout("a"), handmade.Whiteout("d/e"), handmade.Whiteout("nothing"), handmade.Whiteout("no/such/dir")},
		{handmade.Whiteout("d"), handmade.File("a", "again")},
	},
	"a directory whited out and listed in one layer, in both orders": {
		{handmade.File("a/old", ""), handmade.File("b/old", ""), handmade.File("c/old", "")},
		{handmade.Whiteout("a"), handmade.Dir("a"), handmade.File("a/new", ""), handmade.Dir("b"), handmade.File("b/new", ""), handmade.Whiteout("b"),
			handmade.Whiteout("c"), handmade.File("c/new", "")},
	},
	"a file whited out and brought in one layer, in both orders": {
		{handmade.File("a", "old"), handmade.File("b", "old")},
		{handmade.Whiteout("a"), handmade.File("a", "new"), handmade.File("b", "new"), handmade.Whiteout("b")},
	},
	"opaque directories": {
		{handmade.Dir("d").Moded(0o711), handmade.File("d/x", ""), handmade.File("d/sub/y", ""), handmade.File("e/x", ""), handmade.File("e/f/y", "")},
		{handmade.Dir("d").Moded(0o700), handmade.Opaque("d"), handmade.File("d/z", ""), handmade.File("e/f/new", ""), handmade.Opaque("e/f")},
		{handmade.File("d/sub/again", ""), handmade.Opaque("fresh")},
	},
	"whiteouts where there is nothing to hide": {
		{handmade.Whiteout("base"), handmade.File("a", ""), handmade.Dir("d"), handmade.Whiteout("d/x")},
		{handmade.Dir("o"), handmade.Opaque("o"), handmade.Whiteout("o/x"), handmade.Whiteout("new/x"), handmade.Dir("listed"), handmade.Whiteout("listed/x")},
		{handmade.Whiteout("d"), handmade.Dir("d"), handmade.Whiteout("d/y"), handmade.File("d/sub/z", ""), handmade.Whiteout("d/sub/w")},
	},
	"AUFS's own files": {
		{handmade.File("x", "")},
		{handmade.File(".wh..wh.plnk/12.34", ""), handmade.File(".wh..wh.aufs", ""), handmade.File("y", "")},
	},
	"implied directories look as below": {
		{handmade.Dir("."), handmade.Dir("home").Moded(0o750).Owned(10, 20), handmade.Dir("home/u").Moded(0o2700).Owned(1000, 1000).Xattr("user.of", "u"), handmade.Dir("t").Moded(0o1777)},
		{handmade.File("home/u/.profile", "x"), handmade.File("t/new/f", "")},
		{handmade.File("home/u/.cache/f", "x")},
	},
	"implied directories, and then changed, removed, or replaced": {
		{handmade.Dir("a").Moded(0o700), handmade.Dir("b").Moded(0o700), handmade.Dir("c").Moded(0o700), handmade.Dir("d").Moded(0o700), handmade.Dir("e").Moded(0o700)},
		{handmade.File("a/x", ""), handmade.File("b/x", ""), handmade.File("c/x", ""), handmade.File("d/x", ""), handmade.File("e/x", "")},
		{handmade.Dir("a").Moded(0o711), handmade.Whiteout("b"), handmade.File("c", "now a file"), handmade.Opaque("d"), handmade.Whiteout("e"), handmade.File("e/y", "")},
		{handmade.File("a/y", ""), handmade.File("b/y", ""), handmade.Dir("c")},
	},
	"an implied root, and one that is listed": {
		{handmade.Dir(".").Moded(0o711).Owned(3, 3), handmade.File("a", "")},
		{handmade.File("b", "")},
	},
	"implied on a layer that needed its base": {
		{handmade.Dir("a").Moded(0o700), handmade.File("a/x", "1"), handmade.Dir("z").Moded(0o711)},
		{handmade.File("a/y", "2")},
		{handmade.Hard("a/w", "a/x"), handmade.File("z/f", "")},
		{handmade.File("a/v", "3")},
	},
	"directories become files and links, and the reverse": {
		{handmade.File("a/x", ""), handmade.File("b", ""), handmade.File("c/x", ""), handmade.Symlink("d", "a"), handmade.File("e/f/g", "")},
		{handmade.File("a", "file"), handmade.Dir("b"), handmade.File("b/y", ""), handmade.Symlink("c", "b"), handmade.Dir("d"), handmade.File("d/z", ""), handmade.File("e/f", "")},
		{handmade.Dir("a"), handmade.File("a/new", "")},
	},
	"one name several times in a layer": {
		{handmade.File("a", "1"), handmade.File("a", "22"), handmade.File("b", ""), handmade.Dir("b"), handmade.File("b/x", ""), handmade.Dir("c"), handmade.File("c/x", ""),
			handmade.File("c", "file"), handmade.Dir("c"), handmade.Dir("e").Moded(0o700), handmade.Dir("e").Moded(0o711), handmade.Symlink("s", "1"), handmade.Symlink("s", "2")},
		{handmade.File("c", "x"), handmade.Dir("c"), handmade.File("c/y", "")},
	},
	"the same layer twice": {
		{handmade.File("a", "1"), handmade.File("b", "1")},
		{handmade.File("a", "2"), handmade.Whiteout("b")},
		{handmade.File("a", "1"), handmade.File("b", "1")},
	},
	"odd names": {
		{handmade.File("./a", "1"), handmade.File("/abs", "2"), handmade.File("x/../y", "3"), handmade.File("d//e", "4"), handmade.File("spa ce\n\ttab", "5"), handmade.File("..dots", "6"),
			handmade.File("ünïcode", "7"), handmade.File("\xff\xfe", "8"), handmade.File(strings.Repeat("n", 255), "9"), handmade.File(strings.Repeat("d/", 200)+"deep", "10"),
			handmade.File("back\\slash", "11")},
	},
	"layers with nothing in them": {{}, {handmade.File("a", "")}, {}, {}},
}

// acl is a default ACL: user::rwx, user:1000:rwx, group::r-x, mask::rwx, other::---.
var acl = func() string {
	b := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 7, 0xffffffff}, {2, 7, 1000}, {4, 5, 0xffffffff}, {16, 7, 0xffffffff}, {32, 0, 0xffffffff}} {
		b = append(b, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	return string(b)
}()

func TestMergedTreeIsThatOfUnpackingOneLayerAfterTheOther(t *testing.T) {
	for name, stack := range corpus {
		t.Run(name, func(t *testing.T) { checkStack(t, stack, handmade.Compression(len(name)%3)) })
	}
}

func TestMergedTreesOfRandomStacksAreThoseOfUnpackingInTurn(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { checkStack(t, randomStack(seed), handmade.Plain) })
	}
}

func TestLayersMergeAlsoWhereTheKernelTakesThemOnlyAtOnce(t *testing.T) {
	for _, oneByOne := range []bool{true, false} {
		var lowers []*linux.FD
		for i := range 10 {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "f"), []byte(strconv.Itoa(i)), 0o600); err != nil {
				t.Fatal(err)
			}
			fd, err := linux.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer fd.Close()
			lowers = append(lowers, fd)
		}
		m, err := image.OverlayOver(lowers, oneByOne)
		if err != nil {
			t.Fatalf("one by one %v: %v", oneByOne, err)
		}
		if b, err := os.ReadFile(m.Path() + "/f"); err != nil || string(b) != "0" {
			t.Errorf("one by one %v: the topmost is %q, %v", oneByOne, b, err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func checkStack(t *testing.T, stack []entries, c handmade.Compression) {
	t.Helper()
	reg, s := registry.New(t, registry.Options{}), open(t)
	var made []handmade.Layer
	var archives [][]byte
	for _, l := range stack {
		layer := handmade.NewLayer(c, l...)
		made = append(made, layer)
		archives = append(archives, layer.Tar)
	}
	reg.Push("corpus:v1", handmade.New(made...))
	ref := reg.Host() + "/corpus:v1"
	pull(t, s, ref)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	sequential(t, plain, archives...)
	compare(t, describe(t, plain), tree(t, s, ref))
	if t.Failed() {
		for i, l := range stack {
			for _, e := range l {
				t.Logf("layer %d: %c %s → %s mode %o", i, e.Typeflag, e.Name, e.Linkname, e.Mode)
			}
		}
	}
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	empty(t, s)
}

// randomStack makes layers of few names, so that they meet in every way. What no unpacker can do (a path through a file, a link to nothing) is left out by
// doing it all on the yardstick first.
func randomStack(seed uint64) []entries {
	r := rand.New(rand.NewPCG(seed, 20))
	names := []string{"a", "b", "c"}
	name := func() string {
		p := names[r.IntN(3)]
		for range r.IntN(3) {
			p = path.Join(p, names[r.IntN(3)])
		}
		return p
	}
	root, err := os.MkdirTemp("", "random-stack")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(root)
	var stack []entries
	for range 2 + r.IntN(4) {
		var layer entries
		var hidden entries
		for range r.IntN(8) {
			e := handmade.File(name(), strconv.Itoa(r.IntN(100)))
			switch r.IntN(9) {
			case 0, 1:
				e = handmade.Dir(name()).Moded([]int64{0o755, 0o700, 0o1777}[r.IntN(3)])
			case 2:
				e = handmade.Symlink(name(), []string{name(), "/" + name()}[r.IntN(2)])
			case 3:
				e = handmade.Hard(name(), name())
			case 4:
				hidden = append(hidden, handmade.Whiteout(name()))
				continue
			case 5:
				hidden = append(hidden, handmade.Opaque(name()))
				continue
			}
			layer = append(layer, e)
		}
		stack = append(stack, possible(root, append(hidden, layer...)))
	}
	return stack
}

// possible returns those entries of a layer that can be unpacked onto root, and unpacks them.
func possible(root string, layer entries) entries {
	var done entries
	for _, pass := range []bool{true, false} {
		for _, e := range layer {
			archive := tar.NewReader(bytes.NewReader(handmade.Tar(e)))
			h, err := archive.Next()
			if err != nil {
				panic(err)
			}
			isHidden := strings.HasPrefix(path.Base(h.Name), ".wh.")
			if st, err := os.Stat(filepath.Dir(inside(root, h.Name))); isHidden && (err != nil || !st.IsDir()) {
				continue
			}
			if pass {
				if isHidden && hide(root, h, archive) == nil {
					done = append(done, e)
				}
				continue
			}
			if !isHidden && !loops(root, e) && extract(root, h, archive) == nil {
				done = append(done, e)
			}
		}
	}
	return done
}

// loops keeps out what depends on how a particular unpacker resolves: links among links, and links to directories or to themselves.
func loops(root string, e handmade.Entry) bool {
	if e.Typeflag == tar.TypeSymlink {
		st, err := os.Lstat(inside(root, path.Join(path.Dir(e.Name), e.Linkname)))
		return strings.HasPrefix(e.Linkname, "/") || err != nil || !st.IsDir() || strings.HasPrefix(e.Linkname, e.Name)
	}
	if e.Typeflag == tar.TypeLink {
		st, err := os.Lstat(inside(root, e.Linkname))
		return err != nil || !st.Mode().IsRegular() || inside(root, e.Linkname) == inside(root, e.Name)
	}
	return false
}
