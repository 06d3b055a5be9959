package linux_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"fermata/internal/linux"
)

func TestALockIsAwaited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := linux.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := linux.LockFile(path); !errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		t.Errorf("without patience: %v", err)
	}
	if f, err := linux.AwaitLock(path, time.Millisecond); !errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		t.Errorf("with too little: %v", err)
	}
	got := make(chan error)
	go func() {
		f, err := linux.AwaitLock(path, time.Minute)
		f.Close()
		got <- err
	}()
	first.Close()
	if err := <-got; err != nil {
		t.Errorf("of one that is given up: %v", err)
	}
}
