package rtnl

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Delete removes links, and tells of each as soon as nobody can find it any more: long before it returns, as the kernel
// first unlists all (under rtnl_lock, well below a millisecond) and then keeps the caller until every CPU has let go of them
// (rcu_barrier, 15 ms and more) while others go on. A link that does not exist is gone at once. Several links are put into the group
// first, which must be nobody else's, and removed at the cost of one.
//
// The Conn must come from [DialForDeletion]. ENOBUFS means that the kernel's answer was lost: whether the links are gone must be asked elsewhere.
func (c *Conn) Delete(names []string, group uint32, gone func(name string)) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.socket.HearLinks(true); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.socket.HearLinks(false), c.drain())
	}()
	waiting := map[string]bool{}
	var all []byte
	add := func(r *Request, ack bool) {
		c.seq++
		r.seal(c.seq, ack)
		all = append(all, r.raw...)
	}
	for _, name := range names {
		waiting[name] = true
		if len(names) > 1 {
			add(SetGroup(name, group), false)
		}
	}
	if len(names) == 1 {
		add(DeleteLink(names[0]), true)
	} else {
		add(DeleteGroup(group), true)
	}
	sent := make(chan error, 1)
	go func() { sent <- c.socket.SendNetlink(all) }()
	return c.watch(waiting, sent, gone)
}

// lost is how long an answer is waited for before asking whether the kernel has returned without one.
const lost = time.Second

// watch reads news and answers until the last request's.
func (c *Conn) watch(waiting map[string]bool, sent <-chan error, gone func(name string)) error {
	var failed error
	for answered := false; !answered; {
		there, err := c.socket.AwaitNetlink(lost)
		if err != nil {
			return errors.Join(err, <-sent)
		}
		if !there {
			select {
			case err := <-sent: // and no answer: it was lost, as the buffer was full of news
				return errors.Join(err, fmt.Errorf("delete links: answer lost: %w", syscall.ENOBUFS))
			default:
				continue
			}
		}
		err = c.receive(func(m message) (done bool) {
			switch {
			case m.kind == syscall.RTM_DELLINK && len(m.payload) > 0 && m.payload[0] == syscall.AF_UNSPEC: // AF_BRIDGE: is no port any more
				if l := parseLink(m.payload); l != nil && waiting[l.Name] {
					delete(waiting, l.Name)
					gone(l.Name)
				}
			case m.kind == messageError && m.seq == c.seq:
				answered, failed = true, m.failure()
			}
			return answered
		})
		if err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ENOBUFS) { // more will come; news were lost, which the answer makes good
			return errors.Join(err, <-sent)
		}
	}
	if err := <-sent; err != nil {
		return err
	}
	if failed != nil && !errors.Is(failed, syscall.ENODEV) {
		return fmt.Errorf("delete links: %w", failed)
	}
	for name := range waiting { // there never were, or their news was lost
		gone(name)
	}
	return nil
}

// drain forgets news that nobody waits for.
func (c *Conn) drain() error {
	err := c.receive(func(message) bool { return false })
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOBUFS) {
		return nil
	}
	return err
}
