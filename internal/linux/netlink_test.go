package linux

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A goroutine may find itself on the process's first thread, whose namespaces are what /proc/self shows of the process.
func TestAThrowAwayThreadIsNeverTheFirst(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		err := OnThrowAwayThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("runs on the first thread")
			}
			return unix.Unshare(CloneNewUTS)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.Readlink("/proc/self/ns/uts"); err != nil || after != before {
		t.Errorf("the process was in %s, is in %s (%v)", before, after, err)
	}
}

func TestVisitReturns(t *testing.T) {
	home, err := OpenHome()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	own, err := home.NS().Inode()
	if err != nil {
		t.Fatal(err)
	}
	var ns *FD
	err = OnThrowAwayThread(func() (err error) {
		if err = unix.Unshare(CloneNewNet); err != nil {
			return err
		}
		again, err := OpenHome() // from a thread that lives elsewhere: still the process's
		if err != nil {
			return err
		}
		defer again.Close()
		if got, err := again.NS().Inode(); got != own || err != nil {
			t.Errorf("home is %d, %v, want %d", got, err, own)
		}
		ns, err = Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	want, err := ns.Inode()
	if err != nil || want == own {
		t.Fatalf("namespace %d, own %d, %v", want, own, err)
	}
	inside := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
			t.Error(err)
		}
		return st.Ino
	}
	for range 50 {
		failed := errors.New("what do says")
		err := home.Visit(ns, func() error {
			if got := inside(); got != want {
				t.Errorf("visits %d, want %d", got, want)
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		if got := inside(); got != own {
			t.Fatalf("after the visit in %d, want %d", got, own)
		}
	}
	dir, err := OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := home.Visit(dir, func() error { t.Error("visited a directory"); return nil }); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBADF) {
		t.Errorf("what is no namespace: %v", err)
	}
}

func TestNetlinkSocketsNeverWait(t *testing.T) {
	s, err := NetlinkSocket(NetlinkRoute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.ReceiveNetlink(make([]byte, NetlinkBuffer)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("nothing there: %v", err)
	}
	if there, err := s.AwaitNetlink(1); there || err != nil {
		t.Errorf("nothing comes: %v, %v", there, err)
	}
}
