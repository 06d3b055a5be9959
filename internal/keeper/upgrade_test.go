package keeper_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fermata/internal/errs"
	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// upgrade has the keeper execute a binary, again if something was under way for too long.
func (m *mortal) upgrade(path string) error {
	for until := time.Now().Add(patience); ; {
		err := m.Upgrade(m.t.Context(), path)
		if !errs.Is(err, errs.Unavailable) || time.Now().After(until) {
			return err
		}
	}
}

// A keeper that executes another in its place drops no child, descriptor, connection or byte, whatever is under way.
func TestAnUpgradeLosesNothing(t *testing.T) {
	const upgrades = 50
	m := newMortal(t)
	before := m.pid()
	m.write()
	ours, theirs, err := linux.OutputPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	m.sh("followed", "read x < "+m.dir+"/gate; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo follow $i; [ $((i % 100)) -gt 0 ] || sleep 0.02; done; echo -n half; exit 9", m.logged, m.gate)
	if err := theirs.SetNonblock(true); err != nil {
		t.Fatal(err)
	}
	if err := m.Follow(t.Context(), "followed", theirs, nil); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	m.open("gate")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	lives := make([]int, 3)
	for worker := range lives {
		wg.Go(func() { lives[worker] = m.live(ctx, fmt.Sprintf("life%d", worker)) })
	}
	exe := m.o.Binary
	for i := range upgrades {
		if err := m.upgrade(exe); err != nil {
			t.Fatalf("upgrade %d: %v", i, err)
		}
	}
	stop()
	wg.Wait()
	if now := m.pid(); now != before {
		t.Errorf("the keeper was process %d and is %d", before, now)
	}
	m.check()
	if e := m.exits.of("followed"); e.Code != 9 {
		t.Errorf("exit %+v", e)
	}
	got, err := io.ReadAll(ours)
	if err != nil {
		t.Error(err)
	}
	var want strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&want, "follow %d\n", i+1)
	}
	want.WriteString("half")
	if string(got) != want.String() {
		t.Errorf("who followed got %d bytes, want %d; it ends with %q", len(got), want.Len(), got[max(0, len(got)-20):])
	}
	select {
	case <-m.Done():
		t.Error("the connection did not last")
	default:
	}
	t.Logf("%d upgrades over %v launches", upgrades, lives)
	m.exits.mu.Lock()
	defer m.exits.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range m.exits.all {
		if seen[e.ID] {
			t.Errorf("the exit of %s was told twice", e.ID)
		}
		seen[e.ID] = true
	}
}

// live launches processes, one after the other, and looks at each one's exit.
func (m *mortal) live(ctx context.Context, name string) (n int) {
	for ; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("%s-%d", name, n)
		kind := wire.Container
		if n%2 == 1 {
			id, kind = fmt.Sprintf("%s/%d", name, n), wire.Exec
		}
		program := m.program([]string{"/bin/sh", "-c", fmt.Sprintf("exit %d", n%250)})
		launched, err := m.Launch(context.WithoutCancel(ctx), m.request(id, program, func(l *wire.Launch) { l.Kind = kind }))
		if err != nil {
			m.t.Errorf("launch %s: %v", id, err)
			return n
		}
		launched.Pidfd.Close()
		if e := m.exits.of(id); e.Code != n%250 || e.Signal != 0 || e.Unknown {
			m.t.Errorf("%s ended with %+v", id, e)
		}
		if err := m.Forget(context.WithoutCancel(ctx), id); err != nil {
			m.t.Error(err)
		}
	}
	return n
}

func TestAnUpgradeThatCannotBeIsRefused(t *testing.T) {
	m := newMortal(t)
	m.sh("p", "echo begun; read x < "+m.dir+"/gate; echo on; exit 4", m.logged, m.gate)
	for path, want := range map[string]string{filepath.Join(m.dir, "none"): "no such file", m.logs: "permission denied"} {
		if err := m.Upgrade(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("upgrade to %s: %v", path, err)
		}
	}
	m.open("gate")
	if e := m.exits.of("p"); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
	if exe, err := os.Executable(); err != nil || m.Executable() != exe {
		t.Errorf("it says that it is %s, %v", m.Executable(), err)
	}
}

func FuzzHandover(f *testing.F) {
	h := wire.Handover{
		Listener: 3, Lock: 4, Sessions: []wire.HandedSession{{FD: 5, Subscribed: true, Answer: 6}},
		Processes: []wire.HandedProcess{{ID: "p", FDs: []wire.HandedFD{{Name: "pidfd", FD: 7}}}}, Exits: []wire.Exit{{ID: "e", Code: 8}},
	}
	f.Add(h.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := wire.DecodeHandover(b)
		if err != nil {
			return
		}
		again, err := wire.DecodeHandover(h.Encode())
		if err != nil || len(again.Sessions) != len(h.Sessions) || len(again.Processes) != len(h.Processes) || len(again.Exits) != len(h.Exits) || again.Listener != h.Listener {
			t.Errorf("%+v became %+v, %v", h, again, err)
		}
	})
}
