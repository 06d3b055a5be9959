package image_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/image"
	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

func TestTheSamePullTenTimesIsOneDownload(t *testing.T) {
	reg, s, img := registry.New(t, registry.Options{}), open(t), small()
	reg.Push("app:v1", img)
	arrived, let := make(chan struct{}), make(chan struct{})
	reg.Fail(registry.Fault{Path: "/manifests/", Times: 1, Hook: func(*http.Request) { close(arrived); <-let }})
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if id, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1"}); err != nil || id != img.ID() {
				t.Errorf("got %s, %v", id, err)
			}
		})
	}
	<-arrived
	close(let)
	group.Wait()
	for _, l := range img.Layers {
		if n := reg.Count("GET", l.Digest.Hex); n != 1 {
			t.Errorf("layer fetched %d times", n)
		}
	}
}

func TestLayersThatAreHereAreNotFetchedAgain(t *testing.T) {
	reg, s, one := registry.New(t, registry.Options{}), open(t), small()
	two := handmade.New(append(slices.Clone(one.Layers), handmade.NewLayer(handmade.Gzip, handmade.File("more", "")))...)
	// The same layer, otherwise compressed: what counts is what it unpacks to.
	two.Layers[0] = handmade.LayerOf(handmade.Zstd, one.Layers[0].Tar)
	reg.Push("one:v1", one)
	reg.Push("two:v1", two)
	pull(t, s, reg.Host()+"/one:v1")
	before, _, _ := s.Usage()
	reg.Forget()
	pull(t, s, reg.Host()+"/two:v1")
	if n := reg.Count("GET", "/blobs/"); n != 2 {
		t.Errorf("%d blobs fetched, want the config and one layer", n)
	}
	if after, _, _ := s.Usage(); after-before > 4096*4 {
		t.Errorf("two thirds shared, and yet %d bytes more", after-before)
	}
	if err := s.Remove(t.Context(), reg.Host()+"/one:v1"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(s.Lowers(resolve(t, s, two.ID()))[3], "etc/a")); err != nil || string(b) != "one" {
		t.Errorf("a shared layer after the other image went: %q, %v", b, err)
	}
	reg.Forget()
	pull(t, s, reg.Host()+"/two:v1")
	if n := reg.Count("", ""); n != 1 || reg.Requests()[0].Method != "HEAD" {
		t.Errorf("an unchanged image took %d requests", n)
	}
}

func TestPullsOfDifferentImagesShareALayerUnderWay(t *testing.T) {
	reg, s, one := registry.New(t, registry.Options{}), open(t), small()
	two := handmade.New(one.Layers[0])
	reg.Push("one:v1", one)
	reg.Push("two:v1", two)
	arrived, let := make(chan struct{}), make(chan struct{})
	reg.Fail(registry.Fault{Path: one.Layers[0].Digest.Hex, Times: 1, Hook: func(*http.Request) { close(arrived); <-let }})
	first, second := make(chan error, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, err := s.Pull(ctx, image.Pull{Ref: reg.Host() + "/one:v1"}); first <- err }()
	<-arrived
	go func() { _, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/two:v1"}); second <- err }()
	for reg.Count("GET", two.ID()[7:]) == 0 { // until the second has its config, and so waits for the layer, or is about to
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-first; !errs.Is(err, errs.Canceled) {
		t.Errorf("the first: %v", err)
	}
	close(let)
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	if all := s.List(); len(all) != 1 || all[0].ID != two.ID() {
		t.Errorf("list %v", all)
	}
}

func TestPullGoesOnForThoseWhoStillWait(t *testing.T) {
	reg, s, img := registry.New(t, registry.Options{}), open(t), small()
	reg.Push("app:v1", img)
	arrived, let := make(chan struct{}), make(chan struct{})
	reg.Fail(registry.Fault{Path: img.Layers[0].Digest.Hex, Times: 1, Hook: func(*http.Request) { close(arrived); <-let }})
	ctx, cancel := context.WithCancel(t.Context())
	impatient, patient := make(chan error, 1), make(chan error, 1)
	pullAs := func(ctx context.Context, done chan error) {
		_, err := s.Pull(ctx, image.Pull{Ref: reg.Host() + "/app:v1"})
		done <- err
	}
	go pullAs(ctx, impatient)
	<-arrived
	go pullAs(t.Context(), patient)
	for s.Waiting() < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-impatient; !errs.Is(err, errs.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	close(let)
	if err := <-patient; err != nil {
		t.Errorf("who waited: %v", err)
	}
	if n := reg.Count("GET", img.Layers[0].Digest.Hex); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestOtherCredentialsGoToTheRegistryForAnImageThatIsHere(t *testing.T) {
	reg, s := registry.New(t, registry.Options{Auth: &registry.Auth{Username: "u", Password: "p"}}), open(t)
	reg.Push("app:v1", small())
	pullAs := func(c *image.Credentials) error {
		_, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1", Credentials: c})
		return err
	}
	if err := pullAs(&image.Credentials{Username: "u", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	if err := pullAs(&image.Credentials{Username: "u", Password: "wrong"}); !errs.Is(err, errs.PermissionDenied) {
		t.Errorf("wrong password: %v", err)
	}
	if err := pullAs(nil); !errs.Is(err, errs.PermissionDenied) {
		t.Errorf("none: %v", err)
	}
	if err := pullAs(&image.Credentials{Auth: "dTpw"}); err != nil {
		t.Errorf("right ones: %v", err)
	}
}

func TestTagGoesToTheImagePulledLast(t *testing.T) {
	reg, s, older := registry.New(t, registry.Options{}), open(t), small()
	newer := handmade.New(older.Layers[0])
	ref := reg.Host() + "/app:v1"
	reg.Push("app:v1", older)
	pull(t, s, ref)
	reg.Push("app:v1", newer)
	pull(t, s, ref)
	if got := resolve(t, s, ref); got.ID != newer.ID() {
		t.Errorf("the tag is at %s", got.ID)
	}
	got := resolve(t, s, older.ID())
	if len(got.RepoTags) != 0 || len(got.RepoDigests) != 1 {
		t.Errorf("the older has tags %v, digests %v", got.RepoTags, got.RepoDigests)
	}
	reg.Push("app:v1", older)
	pull(t, s, ref)
	if got := resolve(t, s, ref); got.ID != older.ID() || len(s.List()) != 2 {
		t.Errorf("back at the older: %+v", got)
	}
}

func TestSameImageFromTwoRegistriesIsOneAndGoesAsOne(t *testing.T) {
	one, two, s, img := registry.New(t, registry.Options{}), registry.New(t, registry.Options{}), open(t), small()
	one.Push("a:v1", img)
	two.Push("b:v2", img)
	if a, b := pull(t, s, one.Host()+"/a:v1"), pull(t, s, two.Host()+"/b:v2"); a != b {
		t.Errorf("ids %s and %s", a, b)
	}
	if got := s.List(); len(got) != 1 || len(got[0].RepoTags) != 2 || len(got[0].RepoDigests) != 2 {
		t.Errorf("list %+v", got)
	}
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			if err := s.Remove(t.Context(), one.Host()+"/a:v1"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	empty(t, s)
}

func TestHeldImageKeepsItsLayersAfterItIsRemovedAndOverARestart(t *testing.T) {
	reg, img := registry.New(t, registry.Options{}), small()
	reg.Push("app:v1", img)
	o := image.Options{Root: t.TempDir()}
	s, err := image.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ref := reg.Host() + "/app:v1"
	id := pull(t, s, ref)
	lowers := s.Lowers(resolve(t, s, ref))
	there := func() bool { _, err := os.Stat(filepath.Join(lowers[len(lowers)-1], "etc/a")); return err == nil }
	for _, user := range []string{"container 1", "container 2", "container 1"} {
		if err := s.Hold(id, user); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Hold("sha256:"+img64, "x"); !errs.Is(err, errs.NotFound) {
		t.Errorf("hold what is not there: %v", err)
	}
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(id); !errs.Is(err, errs.NotFound) || len(s.List()) != 0 || !there() {
		t.Errorf("removed while held: %v, list %v, layers there %v", err, s.List(), there())
	}
	if err := s.Release("container 1"); err != nil || !there() {
		t.Errorf("one of two released: %v, layers there %v", err, there())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, o)
	if err := s.Hold(id, "container 2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(t.Context()); err != nil || !there() {
		t.Errorf("collected while held: %v, layers there %v", err, there())
	}
	pull(t, s, ref) // comes back as if it had never gone
	resolve(t, s, ref)
	if err := s.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := s.Release("container 2"); err != nil {
		t.Fatal(err)
	}
	empty(t, s)
}

func TestCollectFreesWhatNobodyHeldAgain(t *testing.T) {
	reg := registry.New(t, registry.Options{})
	reg.Push("app:v1", small())
	o := image.Options{Root: t.TempDir()}
	s, err := image.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	id := pull(t, s, reg.Host()+"/app:v1")
	if err := errors.Join(s.Hold(id, "u"), s.Remove(t.Context(), id), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, o)
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	empty(t, s)
}

func TestProgressReachesTheEnd(t *testing.T) {
	reg, s, img := registry.New(t, registry.Options{}), open(t), small()
	reg.Push("app:v1", img)
	var last image.Progress
	if _, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1", Progress: func(p image.Progress) { last = p }}); err != nil {
		t.Fatal(err)
	}
	if last.Bytes != last.Total || last.Total == 0 || last.Layers != 3 || last.LayersTotal != 3 {
		t.Errorf("got %+v", last)
	}
}

func TestPullThatReceivesNothingIsGivenUp(t *testing.T) {
	reg, s := registry.New(t, registry.Options{}), open(t, func(o *image.Options) { o.StallTimeout = 50 * time.Millisecond })
	reg.Push("app:v1", small())
	reg.Fail(registry.Fault{Path: "/blobs/", Stall: true, After: 20})
	_, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1"})
	if !errors.Is(err, image.ErrRegistryUnavailable) || !strings.Contains(err.Error(), "no byte received") {
		t.Fatalf("got %v", err)
	}
	empty(t, s)
}

func TestCloseEndsPulls(t *testing.T) {
	reg := registry.New(t, registry.Options{})
	reg.Push("app:v1", small())
	arrived := make(chan struct{})
	reg.Fail(registry.Fault{Path: "/blobs/", Times: 1, Stall: true, Hook: func(*http.Request) { close(arrived) }})
	s, err := image.Open(image.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := s.Pull(t.Context(), image.Pull{Ref: reg.Host() + "/app:v1"}); done <- err }()
	<-arrived
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("it went through")
	}
	empty(t, s)
	if _, err := s.Pull(t.Context(), image.Pull{Ref: "x"}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func TestManyPullsAndRemovalsAtOnce(t *testing.T) {
	reg, s := registry.New(t, registry.Options{}), open(t)
	base := small()
	for i := range 4 {
		reg.Push(fmt.Sprintf("app%d:v1", i), handmade.New(append(slices.Clone(base.Layers), handmade.NewLayer(handmade.Gzip, handmade.File("n", fmt.Sprint(i)), handmade.Hard("h", "etc/a")))...))
	}
	var group sync.WaitGroup
	for i := range 4 {
		ref := fmt.Sprintf("%s/app%d:v1", reg.Host(), i)
		for range 2 {
			group.Go(func() {
				for n := range 8 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+n*n)*time.Millisecond)
					if _, err := s.Pull(ctx, image.Pull{Ref: ref}); err != nil && !errs.Is(err, errs.DeadlineExceeded) {
						t.Error(err)
					}
					cancel()
					if err := s.Remove(t.Context(), ref); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
	empty(t, s)
	if bytes, inodes, err := s.Usage(); bytes > 5*4096 || inodes > 5 || err != nil {
		t.Errorf("usage of an empty store: %d bytes, %d inodes, %v", bytes, inodes, err)
	}
}
