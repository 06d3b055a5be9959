package linux

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What a [Poller] reports of a descriptor.
const (
	PollIn  = unix.EPOLLIN
	PollHup = unix.EPOLLHUP | unix.EPOLLERR
	// PollEdge reports a descriptor once each time something becomes new, and not again until then.
	PollEdge = unix.EPOLLET
	// PollOnce reports a descriptor once.
	PollOnce = unix.EPOLLONESHOT
)

// Event is one descriptor's news.
type Event struct {
	// Token is what was given to Add.
	Token  uint64
	Events uint32
}

// Poller waits for many descriptors on one thread: epoll(7). Add and Remove may be called while another goroutine waits.
type Poller struct {
	epoll *FD
	wake  *FD
	buf   [64]unix.EpollEvent
}

// wakeToken is the eventfd's; Add must not be given it.
const wakeToken = ^uint64(0)

// NewPoller returns an empty Poller.
func NewPoller() (*Poller, error) {
	epoll, err := retryFD("make", "epoll", func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) })
	if err != nil {
		return nil, err
	}
	wake, err := retryFD("make", "eventfd", func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) })
	if err != nil {
		epoll.Close()
		return nil, err
	}
	p := &Poller{epoll: epoll, wake: wake}
	if err := p.Add(wake, PollIn, wakeToken); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Add watches f, which stays the caller's; token is handed back with its events. The watch ends by Remove, or when every
// descriptor of the open file is closed.
func (p *Poller) Add(f *FD, events uint32, token uint64) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	if err := unix.EpollCtl(p.epoll.Int(), unix.EPOLL_CTL_ADD, f.Int(), &ev); err != nil {
		return fmt.Errorf("watch %s: %w", f.Name(), err)
	}
	return nil
}

// Rearm changes what f, which is watched, is reported for. What is there already counts as new: so a PollOnce that has reported is made to
// report again.
func (p *Poller) Rearm(f *FD, events uint32, token uint64) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	if err := unix.EpollCtl(p.epoll.Int(), unix.EPOLL_CTL_MOD, f.Int(), &ev); err != nil {
		return fmt.Errorf("watch %s again: %w", f.Name(), err)
	}
	return nil
}

// Remove ends the watch of f. Not being watched is fine.
func (p *Poller) Remove(f *FD) error {
	err := unix.EpollCtl(p.epoll.Int(), unix.EPOLL_CTL_DEL, f.Int(), nil)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("stop watching %s: %w", f.Name(), err)
	}
	return nil
}

// Wait appends what is new to events, blocking a thread until something is or Wake was called (which may add none). One
// goroutine at a time.
func (p *Poller) Wait(events []Event) ([]Event, error) {
	var n int
	err := retry(func() (err error) { n, err = unix.EpollWait(p.epoll.Int(), p.buf[:], -1); return err })
	if err != nil {
		return events, fmt.Errorf("wait for events: %w", err)
	}
	for _, ev := range p.buf[:n] {
		token := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
		if token == wakeToken {
			var count [8]byte
			unix.Read(p.wake.Int(), count[:]) // EAGAIN when another Wait was quicker
			continue
		}
		events = append(events, Event{token, ev.Events})
	}
	return events, nil
}

// Wake makes Wait return.
func (p *Poller) Wake() error {
	_, err := p.wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// Close frees the Poller, not what it watches. Nobody may be in Wait.
func (p *Poller) Close() error { return CloseAll(p.wake, p.epoll) }
