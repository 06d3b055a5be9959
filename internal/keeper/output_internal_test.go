package keeper

import (
	"bytes"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
	"fermata/internal/logs"
)

// deadDisk is a log file whose writes hang until it is mended.
type deadDisk struct {
	mu      sync.Mutex
	got     bytes.Buffer
	mended  chan struct{}
	hanging chan struct{} // closed when the first write hangs
	once    sync.Once
}

func (d *deadDisk) Write(p []byte) (int, error) {
	d.once.Do(func() { close(d.hanging) })
	<-d.mended
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.got.Write(p)
}

func (d *deadDisk) CutTail(int64) error  { return nil }
func (d *deadDisk) Size() (int64, error) { return 0, nil }
func (d *deadDisk) Close() error         { return nil }

// A disk that hangs stops its own log, for as long as it hangs, and neither the exit nor anybody else's log.
func TestADeadDiskStopsOnlyItsOwnLog(t *testing.T) {
	dir := t.TempDir()
	s, err := New(Options{Socket: dir + "/s", State: dir, Root: dir, Warn: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	dead := &deadDisk{mended: make(chan struct{}), hanging: make(chan struct{})}
	well := &deadDisk{mended: make(chan struct{}), hanging: make(chan struct{})}
	close(well.mended)
	follow := func(name string, file logs.File) (*output, *linux.FD) {
		if err := linux.Mkfifo(dir+"/"+name, 0, 0); err != nil {
			t.Fatal(err)
		}
		reader, err := linux.Open(dir+"/"+name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		writer, err := linux.Open(dir+"/"+name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		o := newOutput(s, logs.NewWriter(file), true)
		o.add(source{"stdout", reader, false}, 0)
		o.follow()
		if _, err := writer.Write([]byte(name + "\n")); err != nil {
			t.Fatal(err)
		}
		return o, writer
	}
	deadOut, deadEnd := follow("dead", dead)
	<-dead.hanging
	wellOut, wellEnd := follow("well", well)
	wellEnd.Close()
	wellOut.drain()
	if !bytes.HasSuffix(well.got.Bytes(), []byte(" stdout F well\n")) {
		t.Errorf("the other log holds %q", well.got.String())
	}

	file, err := linux.Open(dir+"/new", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := deadOut.reopen(file, "", ""); !errs.Is(err, errs.Unavailable) {
		t.Errorf("reopen: %v", err)
	}
	deadEnd.Close()
	deadOut.drain()
	if took := time.Since(begin); took < drainLimit || took > 10*drainLimit {
		t.Errorf("reopen and the exit waited for %v", took)
	}
	close(dead.mended)
	deadOut.close()
	if err := s.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if !bytes.HasSuffix(dead.got.Bytes(), []byte(" stdout F dead\n")) {
		t.Errorf("the log holds %q", dead.got.String())
	}
}
