package report

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/iotest"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// message makes messages of words.
func message(words ...int64) []byte {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, uint64(w))
	}
	return b
}

var cases = []struct {
	name string
	data []byte
	want Report
	ok   bool
}{
	{"nothing: the target runs", nil, Report{}, true},
	{"a failed op", message(-22, 12), Report{Failed: true, Op: 12, Errno: syscall.EINVAL}, true},
	{"a failure before the program", message(-8, -1), Report{Failed: true, Op: -1, Errno: syscall.ENOEXEC}, true},
	{"a PID", message(1, 4711), Report{PID: 4711}, true},
	{"a PID and a failure", message(1, 4711, -2, 3), Report{PID: 4711, Failed: true, Op: 3, Errno: syscall.ENOENT}, true},
	{"a failure and a PID", message(-2, 3, 1, 4711), Report{PID: 4711, Failed: true, Op: 3, Errno: syscall.ENOENT}, true},
	{"two failures: the first counts", message(-2, 3, -1, 9), Report{Failed: true, Op: 3, Errno: syscall.ENOENT}, true},
	{"two PIDs", message(1, 4711, 1, 4712), Report{}, false},
	{"PID 0", message(1, 0), Report{}, false},
	{"a negative PID", message(1, -1), Report{}, false},
	{"a PID above all", message(1, 1<<22+1), Report{}, false},
	{"an unknown kind", message(2, 1), Report{}, false},
	{"no kind", message(0, 0), Report{}, false},
	{"no errno", message(-4096, 1), Report{}, false},
	{"the smallest number", message(-1<<63, 1), Report{}, false},
	{"an op below the stage", message(-1, -2), Report{}, false},
	{"half a message", message(-22), Report{}, false},
	{"a message and a byte", append(message(-22, 1), 0), Report{}, false},
	{"too many messages", message(-1, 1, -1, 1, -1, 1, -1, 1), Report{}, false},
}

func TestDecode(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decode(c.data)
			if (err == nil) != c.ok || got != c.want || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("Decode = %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestReadTakesWhatComesInPieces(t *testing.T) {
	for _, c := range cases {
		got, err := Read(iotest.OneByteReader(bytes.NewReader(c.data)))
		if (err == nil) != c.ok || got != c.want {
			t.Errorf("%s: Read = %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestReadEndsEarly(t *testing.T) {
	if _, err := Read(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("an unreadable pipe: %v", err)
	}
	endless := &counter{}
	if _, err := Read(endless); !errors.Is(err, ErrMalformed) || endless.n > 100 {
		t.Errorf("an endless pipe: %v after %d bytes", err, endless.n)
	}
}

type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) { c.n += len(p); return len(p), nil }

func FuzzDecode(f *testing.F) {
	for _, c := range cases {
		f.Add(c.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rep, err := Decode(data)
		if err != nil {
			if rep != (Report{}) {
				t.Errorf("%+v in spite of %v", rep, err)
			}
			return
		}
		if rep.PID < 0 || rep.PID > 1<<22 || rep.Failed != (rep.Errno != 0) || rep.Op < -1 || !rep.Failed && rep.Op != 0 {
			t.Errorf("decoded %+v", rep)
		}
		if (len(data) == 0) != (rep == Report{}) {
			t.Errorf("%d bytes are %+v", len(data), rep)
		}
	})
}
