package pod

import (
	"context"
	"sync"

	"fermata/internal/errs"
)

// flights are the creations under way, by name: an equal request joins the one in the air instead of being told that a name is reserved
// (the oldest complaint about other runtimes, containerd #4604).
type flights struct {
	mu   sync.Mutex
	air  map[string]*flight
	done sync.WaitGroup
}

type flight struct {
	request string
	waiters int
	landed  chan struct{}
	id      string
	err     error
}

// join runs create once for everybody who asks for the same name with the same request, apart from any one caller's end. claim is called
// for the result, before the first caller is answered, if anybody still waits; abandon if nobody does.
func (f *flights) join(ctx context.Context, name, request string, ops flightOps) (string, error) {
	f.mu.Lock()
	if f.air == nil {
		f.air = map[string]*flight{}
	}
	fl, flying := f.air[name]
	switch {
	case flying && fl.request != request:
		f.mu.Unlock()
		return "", errs.New(errs.AlreadyExists, "create %s: another request with this name and other contents is being carried out; wait for it or use another attempt number", name)
	case !flying:
		fl = &flight{request: request, landed: make(chan struct{})}
		f.air[name] = fl
		f.done.Add(1)
		go f.fly(context.WithoutCancel(ctx), name, fl, ops)
	}
	fl.waiters++
	f.mu.Unlock()

	select {
	case <-fl.landed:
		return fl.id, fl.err
	case <-ctx.Done():
		f.mu.Lock()
		fl.waiters--
		f.mu.Unlock()
		return "", errs.New(errs.KindOf(ctx.Err()), "create %s: the caller gave up (%w); the same request again joins or gets the result", name, ctx.Err())
	}
}

// flightOps are the three things a creation can be asked to do. create may ask whether anybody still waits, to spare a claim of its own.
type flightOps struct {
	create  func(ctx context.Context, wanted func() bool) (string, error)
	claim   func(id string) error
	abandon func(id string)
}

func (f *flights) fly(ctx context.Context, name string, fl *flight, ops flightOps) {
	defer f.done.Done()
	waitedFor := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return fl.waiters > 0
	}
	land := func(id string, err error) {
		fl.id, fl.err = id, err
		delete(f.air, name)
		close(fl.landed)
	}
	var id string
	// A panic costs this creation, not the daemon: it does not run on its caller's goroutine, where the edge would catch it.
	err := errs.Guard(func() (err error) { id, err = ops.create(ctx, waitedFor); return err })
	f.mu.Lock()
	if wanted := fl.waiters > 0; err != nil || !wanted {
		// In one step with the look at the waiters: whoever asks from here on starts anew, finds the result and claims it.
		land(id, err)
		f.mu.Unlock()
		if err == nil {
			ops.abandon(id)
		}
		return
	}
	f.mu.Unlock()
	err = ops.claim(id)
	f.mu.Lock()
	land(id, err)
	f.mu.Unlock()
	if err != nil { // nobody was given it
		ops.abandon(id)
	}
}

// wait returns when nothing is in the air any more.
func (f *flights) wait() { f.done.Wait() }
