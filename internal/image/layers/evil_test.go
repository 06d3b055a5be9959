package layers_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/image/layers"
	"fermata/internal/linux"
	"fermata/internal/testkit/handmade"
)

type entries = []handmade.Entry

// canary is a host's directory that no layer may touch, beside the one where layers are unpacked:
//
//	<dir>/canary/{secret,sub/file}   <dir>/root   (unpacked here)
type canary struct {
	dir, before string
}

func newCanary(t testing.TB) *canary {
	t.Helper()
	c := &canary{dir: t.TempDir()}
	for _, d := range []string{"root", "canary/sub"} {
		if err := os.MkdirAll(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"canary/secret", "canary/sub/file"} {
		if err := os.WriteFile(filepath.Join(c.dir, f), []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.before = c.look(t)
	return c
}

// look describes everything but what is below root: names, inode, mode, owner, times, links, contents.
func (c *canary) look(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(c.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == filepath.Join(c.dir, "root") {
			fmt.Fprintln(&b, "root")
			return fs.SkipDir
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		contents, _ := os.ReadFile(p)
		fmt.Fprintln(&b, p, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim, st.Ctim, st.Size, string(contents))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (c *canary) check(t testing.TB) {
	t.Helper()
	if now := c.look(t); now != c.before {
		t.Errorf("the host was touched:\n%s\nbefore:\n%s", now, c.before)
	}
}

func (c *canary) root(t testing.TB) *linux.FD {
	t.Helper()
	f, err := linux.Open(filepath.Join(c.dir, "root"), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// both unpacks an archive both ways and returns the errors; the host must stay untouched.
func both(t testing.TB, archive []byte, limits layers.Limits) (alone, onto error) {
	t.Helper()
	c := newCanary(t)
	_, alone = layers.Unpack(t.Context(), c.root(t), bytes.NewReader(archive), limits)
	c.check(t)
	c = newCanary(t)
	_, onto = layers.UnpackOnto(t.Context(), c.root(t), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, limits)
	c.check(t)
	return alone, onto
}

func TestEvilLayersAreRefusedOrContained(t *testing.T) {
	up := strings.Repeat("../", 30)
	for name, evil := range map[string]entries{
		"a name that leads out":                       {handmade.File("../canary/secret", "x")},
		"a name that leads out by a detour":           {handmade.File("a/b/../../../canary/secret", "x")},
		"a name all of dots":                          {handmade.File("..", "x")},
		"a directory that is the parent":              {handmade.Dir("..").Moded(0o777)},
		"an absolute name":                            {handmade.File("/canary/secret", "x")},
		"a link out, and a file through it":           {handmade.Symlink("l", "../canary"), handmade.File("l/secret", "x")},
		"an absolute link, and a file through it":     {handmade.Symlink("l", "/tmp"), handmade.File("l/fermata-was-here", "x")},
		"a link to the root, and a path through it":   {handmade.Symlink("l", "/"), handmade.File("l/etc/fermata-was-here", "x")},
		"a link far up, and a file through it":        {handmade.Symlink("l", up+"tmp"), handmade.File("l/fermata-was-here", "x")},
		"a chain of links out":                        {handmade.Symlink("a", ".."), handmade.Symlink("b", "a/canary"), handmade.File("b/secret", "x")},
		"a link that is then a directory":             {handmade.Symlink("l", "../canary"), handmade.Dir("l").Moded(0o777).Owned(9, 9), handmade.File("l/secret", "x")},
		"a link that is then a file":                  {handmade.Symlink("l", "../canary/secret"), handmade.File("l", "x").Moded(0o777).Owned(9, 9)},
		"links that loop":                             {handmade.Symlink("a", "b"), handmade.Symlink("b", "a"), handmade.File("a/x", "x")},
		"a link to itself":                            {handmade.Symlink("a", "a"), handmade.File("a/x", "x")},
		"a hard link out":                             {handmade.Hard("h", "../canary/secret"), handmade.File("h", "x")},
		"a hard link out by an absolute name":         {handmade.Hard("h", "/etc/passwd")},
		"a hard link through a link":                  {handmade.Symlink("l", "../canary"), handmade.Hard("h", "l/secret"), handmade.File("h", "x")},
		"a hard link to a directory":                  {handmade.Dir("d"), handmade.Hard("h", "d")},
		"a hard link to the root":                     {handmade.Hard("h", ".")},
		"a hard link to itself":                       {handmade.File("h", "x"), handmade.Hard("h", "h")},
		"a hard link to itself by another spelling":   {handmade.File("h", "x"), handmade.Hard("./h", "/h")},
		"a hard link to a link, and a change of mode": {handmade.Symlink("l", "../canary/secret"), handmade.Hard("h", "l").Moded(0o777).Owned(9, 9)},
		"a whiteout of the parent":                    {handmade.File(".wh...", "")},
		"a whiteout of the directory":                 {handmade.File(".wh..", "")},
		"a whiteout of nothing":                       {handmade.File(".wh.", "")},
		"a whiteout through a link":                   {handmade.Symlink("l", "../canary"), handmade.Whiteout("l/secret")},
		"an opaque marker through a link":             {handmade.Symlink("l", "../canary"), handmade.Opaque("l")},
		"a whiteout of a name that leads out":         {handmade.Whiteout("../canary/secret")},
		"an opaque parent":                            {handmade.Opaque("..")},
		"modes and attributes through a link":         {handmade.Symlink("l", "../canary/secret").Moded(0o777).Owned(9, 9).Xattr("security.capability", strings.Repeat("x", 20))},
		"overlayfs's own attributes":                  {handmade.Dir("d").Xattr("trusted.overlay.redirect", "/../../canary").Xattr("trusted.overlay.opaque", "y").Xattr("user.overlay.redirect", "/x")},
		"an attribute that cannot be":                 {handmade.File("f", "x").Xattr("security.capability", "nonsense")},
		"device nodes":                                {handmade.Device(tar.TypeBlock, "sda", 8, 0).Moded(0o666), handmade.Device(tar.TypeChar, "mem", 1, 1).Moded(0o666)},
		"a device with an impossible number":          {handmade.Device(tar.TypeBlock, "d", 1<<20, 1)},
		"the root as a file":                          {handmade.File(".", "x")},
		"the root as a link":                          {handmade.Symlink(".", "../canary")},
		"a path too deep":                             {handmade.File(strings.Repeat("d/", 600)+"x", "")},
		"a component too long":                        {handmade.File(strings.Repeat("n", 256), "")},
		"a path too long":                             {handmade.File(strings.Repeat(strings.Repeat("n", 200)+"/", 21)+"x", "")},
		"a link with no target":                       {handmade.Symlink("l", "")},
		"a link with a target too long":               {handmade.Symlink("l", strings.Repeat("x/", 3000))},
		"a file in a file":                            {handmade.File("f", "x"), handmade.File("f/g", "y")},
	} {
		t.Run(name, func(t *testing.T) {
			// An error must be the image's fault, not the machine's; no error means contained, which the canary shows.
			alone, onto := both(t, handmade.Tar(evil...), layers.Limits{})
			for _, err := range []error{alone, onto} {
				if err != nil && !errs.Is(err, errs.InvalidArgument) && !errors.Is(err, layers.ErrNeedsBase) {
					t.Errorf("got %v", err)
				}
			}
			if _, err := os.Lstat("/tmp/fermata-was-here"); err == nil {
				t.Error("/tmp/fermata-was-here: written outside")
			}
		})
	}
}

func TestWhatLeadsOutIsRefusedOutright(t *testing.T) {
	for _, name := range []string{"../x", "a/../../x", "..", "../../../../etc/passwd", "./.././x"} {
		for _, e := range []handmade.Entry{handmade.File(name, "x"), handmade.Dir(name), handmade.Symlink(name, "x"), handmade.Hard("h", name)} {
			alone, onto := both(t, handmade.Tar(handmade.File("a/b", ""), e), layers.Limits{})
			if !errs.Is(alone, errs.InvalidArgument) || !errs.Is(onto, errs.InvalidArgument) {
				t.Errorf("%q (%c): %v, %v", name, e.Typeflag, alone, onto)
			}
		}
	}
}

func TestOverlayAttributesOfAnArchiveAreNotSet(t *testing.T) {
	c := newCanary(t)
	archive := handmade.Tar(handmade.Dir("d").Xattr("trusted.overlay.opaque", "y").Xattr("trusted.overlay.redirect", "/x").Xattr("user.overlay.opaque", "y"))
	if _, err := layers.Unpack(t.Context(), c.root(t), bytes.NewReader(archive), layers.Limits{}); err != nil {
		t.Fatal(err)
	}
	d, err := linux.OpenPath(filepath.Join(c.dir, "root/d"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if names, err := d.Xattrs(); err != nil || len(names) != 0 {
		t.Fatalf("attributes %q, %v", names, err)
	}
}

func TestLimitsHold(t *testing.T) {
	many := make(entries, 50)
	for i := range many {
		many[i] = handmade.File(fmt.Sprint(i), "0123456789")
	}
	for name, c := range map[string]struct {
		archive []byte
		limits  layers.Limits
	}{
		"entries":                              {handmade.Tar(many...), layers.Limits{Entries: 49}},
		"bytes":                                {handmade.Tar(many...), layers.Limits{Bytes: 499}},
		"depth":                                {handmade.Tar(handmade.File("a/b/c", "")), layers.Limits{Depth: 2}},
		"sparse files":                         {sparse(1<<30, 1), layers.Limits{Holes: 1<<30 - 1}},
		"a million sparse entries, by default": {sparse(1<<60, 1_000_000), layers.Limits{}},
		"a sparse file of 8 EiB, by default":   {sparse(1<<62, 1), layers.Limits{}},
		"one sparse file too many, each small enough":  {append(sparse(1<<28, 1)[:1536], sparse(1<<28, 1)...), layers.Limits{Holes: 1<<29 - 1}},
		"a header that promises more than there is":    {handmade.Tar(handmade.File("x", "0123456789"))[:515], layers.Limits{}},
		"bytes that are no archive":                    {bytes.Repeat([]byte("no tar "), 200), layers.Limits{}},
		"extended headers without end (over 1 MiB)":    {paxBomb(), layers.Limits{}},
		"a file that is longer than any disk, by name": {handmade.Tar(), layers.Limits{Bytes: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a file that is longer than any disk, by name" {
				c.archive = oldGNUHeader("x", 1<<50)
			}
			start := time.Now()
			alone, onto := both(t, c.archive, c.limits)
			for _, err := range []error{alone, onto} {
				if err == nil {
					t.Error("it went through")
				} else if !errs.Is(err, errs.InvalidArgument) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
				}
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestAMillionSparseEntriesTakeLittleMemory(t *testing.T) {
	archive := sparse(1<<30, 1_000_000)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	alone, _ := both(t, archive, layers.Limits{})
	runtime.ReadMemStats(&after)
	if alone == nil {
		t.Error("it went through")
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d MiB allocated", used>>20)
	}
}

func TestSparseFileKeepsItsHolesAndItsContents(t *testing.T) {
	c := newCanary(t)
	data := strings.Repeat("x", 512)
	// GNU's 1.0 format: the map comes before the data.
	m := "2\n0\n512\n1048576\n512\n"
	body := m + strings.Repeat("\x00", 512-len(m)) + data + data
	archive := rawPAX(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "2097152"}, "GNUSparseFile.0/s", []byte(body))
	r, err := layers.Unpack(t.Context(), c.root(t), bytes.NewReader(archive), layers.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(c.dir, "root/s"))
	want := data + strings.Repeat("\x00", 1<<20-512) + data + strings.Repeat("\x00", 1<<20-512)
	if err != nil || string(b) != want {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(c.dir, "root/s"), &st); err != nil || st.Blocks*512 > 1<<20 || r.Bytes > 1<<20 {
		t.Errorf("%d blocks on disk, %d bytes counted, %v", st.Blocks, r.Bytes, err)
	}
}

func TestCancelledUnpackingStops(t *testing.T) {
	c := newCanary(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := layers.Unpack(ctx, c.root(t), bytes.NewReader(handmade.Tar(handmade.File("a", "x"))), layers.Limits{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// sparse is an archive with one file in GNU's 0.1 sparse form, of so many fragments.
func sparse(size int64, fragments int) []byte {
	m := strings.Repeat("0,0,", fragments)
	return rawPAX(map[string]string{"GNU.sparse.map": strings.TrimSuffix(m, ","), "GNU.sparse.numblocks": fmt.Sprint(fragments), "GNU.sparse.size": fmt.Sprint(size),
		"GNU.sparse.name": "s"}, "s", nil)
}

// rawPAX writes an extended header that archive/tar's writer would refuse.
func rawPAX(records map[string]string, name string, data []byte) []byte {
	var body strings.Builder
	for k, v := range records {
		n := len(k) + len(v) + 3
		for len(fmt.Sprint(n))+len(k)+len(v)+3 != n {
			n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
		}
		fmt.Fprintf(&body, "%d %s=%s\n", n, k, v)
	}
	return append(append(block("PaxHeaders.0/s", 'x', []byte(body.String())), block(name, '0', data)...), make([]byte, 1024)...)
}

func paxBomb() []byte {
	return append(block("PaxHeaders.0/s", 'x', bytes.Repeat([]byte("x"), 8<<20)), make([]byte, 1024)...)
}

func oldGNUHeader(name string, size int64) []byte {
	b := block(name, '0', nil)
	copy(b[124:136], fmt.Sprintf("%011o", 1<<33-1)) // as much as the field holds; size itself would need base-256
	_ = size
	return checksum(b)
}

// block is a ustar header with its padded data.
func block(name string, kind byte, data []byte) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00%011o\x00", len(data), 0))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	checksum(b)
	b = append(b, data...)
	return append(b, make([]byte, (512-len(data)%512)%512)...)
}

func checksum(b []byte) []byte {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func FuzzUnpack(f *testing.F) {
	f.Add(handmade.Tar(handmade.Dir("d"), handmade.File("d/f", "x"), handmade.Hard("h", "d/f"), handmade.Symlink("l", ".."), handmade.Whiteout("d/x"), handmade.Opaque("d")))
	f.Add(handmade.Tar(handmade.Symlink("l", "../canary"), handmade.File("l/secret", "x")))
	f.Add(sparse(1<<20, 3))
	f.Fuzz(func(t *testing.T, archive []byte) {
		c := newCanary(t)
		root := c.root(t)
		limits := layers.Limits{Entries: 100, Bytes: 1 << 20, Holes: 1 << 20, Depth: 20}
		r, err := layers.Unpack(t.Context(), root, bytes.NewReader(archive), limits)
		c.check(t)
		if err == nil {
			if _, _, err := layers.Measure(t.Context(), root); err != nil {
				t.Fatal(err)
			}
			if r.Bytes > 1<<21+4096*1000*20 {
				t.Fatalf("%d bytes", r.Bytes)
			}
			if err := layers.Pack(t.Context(), layers.Unpacked{Dir: root, Implied: r.Implied}, io.Discard); err != nil && !errs.Is(err, errs.InvalidArgument) {
				t.Logf("pack: %v", err)
			}
		}
		c = newCanary(t)
		_, _ = layers.UnpackOnto(t.Context(), c.root(t), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, limits)
		c.check(t)
	})
}
