package stats

import (
	"os"
	"path/filepath"
	"testing"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestMeasureCountsAHardLinkOnce(t *testing.T) {
	dir := t.TempDir()
	before, err := Measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := Measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	two, err := Measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if one.Inodes != before.Inodes+1 || one.Bytes < before.Bytes+64<<10 {
		t.Errorf("a file of 64 KiB took usage from %+v to %+v", before, one)
	}
	if two.Inodes != one.Inodes || two.Bytes != one.Bytes {
		t.Errorf("a second link to it took usage from %+v to %+v", one, two)
	}
}

func TestCacheKeepsForAWhile(t *testing.T) {
	dir := t.TempDir()
	var c Cache
	first, err := c.Of(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := c.Of(dir)
	if err != nil || again != first {
		t.Errorf("measured again within MaxAge: %+v, %v; had %+v", again, err, first)
	}
	c.kept.Time = c.kept.Time.Add(-MaxAge)
	if later, err := c.Of(dir); err != nil || later.Inodes != first.Inodes+1 {
		t.Errorf("after MaxAge %+v, %v; want one inode more than %+v", later, err, first)
	}
}

func TestCacheMeasuresLargeTreesLessOften(t *testing.T) {
	dir := t.TempDir()
	var c Cache
	first, err := c.Of(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.took = MaxAge / 10
	c.kept.Time = first.Time.Add(-9 * MaxAge)
	if again, err := c.Of(dir); err != nil || again != c.kept {
		t.Errorf("a tree that takes a second was measured again after 90: %+v, %v", again, err)
	}
	c.kept.Time = first.Time.Add(-11 * MaxAge)
	if later, err := c.Of(dir); err != nil || later.Time.Before(first.Time) {
		t.Errorf("a tree that takes a second was not measured after 110: %+v, %v", later, err)
	}
}
