// Package rtnl speaks rtnetlink(7) as far as pods need it: links, addresses, routes. Requests are values; a [Conn] performs several in one
// system call, which is what makes connecting a pod cheap (netlink libraries send one, wait, and send the next).
//
// It knows numbers and messages. Which links a pod has, and what they are called, is package builtin's; nftables are package hostport's.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"fermata/internal/linux"
)

// Conn is a netlink socket of one network namespace. It is safe for concurrent use; the kernel serialises requests anyway (rtnl_lock).
type Conn struct {
	mu     sync.Mutex
	socket *linux.FD
	seq    uint32
}

// New takes ownership of a socket made by linux.NetlinkSocket(linux.NetlinkRoute).
func New(socket *linux.FD) *Conn { return &Conn{socket: socket} }

// Dial makes a socket in the namespace ns.
func Dial(home *linux.Home, ns *linux.FD) (*Conn, error) {
	var c *Conn
	err := home.Visit(ns, func() error {
		s, err := linux.NetlinkSocket(linux.NetlinkRoute)
		c = New(s)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// DialForDeletion makes a socket that is good for [Conn.Delete] and nothing else.
func DialForDeletion(home *linux.Home, ns *linux.FD) (*Conn, error) {
	c, err := Dial(home, ns)
	if err != nil {
		return nil, err
	}
	if err := c.socket.OnlyDeletions(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close closes the socket. A nil Conn has none.
func (c *Conn) Close() error {
	if c == nil {
		return nil
	}
	return c.socket.Close()
}

// buffers are for answers; a socket of a pod lives too briefly to own one.
var buffers = sync.Pool{New: func() any { b := make([]byte, linux.NetlinkBuffer); return &b }}

// Do performs requests in order, in one system call. A request that fails does not stop those after it; the errors are joined.
func (c *Conn) Do(requests ...*Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.seq + 1
	var all []byte
	for i, r := range requests {
		c.seq++
		r.seal(c.seq, i == len(requests)-1) // failures are told in any case: the last one's answer is the last of all
		all = append(all, r.raw...)
	}
	if err := c.socket.SendNetlink(all); err != nil {
		return fmt.Errorf("%s: %w", requests[0].name, err)
	}
	var failed []error
	err := c.receive(func(m message) (done bool) {
		i := m.seq - first
		if i >= uint32(len(requests)) || m.kind != messageError {
			return false // the answer to an earlier question
		}
		if err := m.failure(); err != nil && !errors.Is(err, requests[i].forgiven) {
			failed = append(failed, fmt.Errorf("%s: %w", requests[i].name, err))
		}
		return m.seq == c.seq
	})
	return errors.Join(append(failed, err)...)
}

// ask performs one request that is answered by messages of the given kind.
func (c *Conn) ask(r *Request, kind uint16, each func(payload []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	r.seal(c.seq, false)
	if err := c.socket.SendNetlink(r.raw); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	var failed error
	err := c.receive(func(m message) (done bool) {
		switch {
		case m.seq != c.seq:
			return false
		case m.kind == messageError:
			failed = m.failure()
			return true
		case m.kind == messageDone:
			return true
		case m.flags&dumpBroken != 0:
			failed = errBroken // told at the end: the rest must be read
		case m.kind == kind:
			each(m.payload)
		}
		return m.flags&multiPart == 0
	})
	if err = errors.Join(failed, err); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}

// errBroken is a list that was changed while it was read.
var errBroken = errors.New("changed while being read")

// dump is ask for a list, asked again for as long as it changes meanwhile (bounded: a busy host must not keep us here).
func (c *Conn) dump(r *Request, kind uint16, each func(payload []byte), reset func()) error {
	for tries := 0; ; tries++ {
		reset()
		if err := c.ask(r, kind, each); !errors.Is(err, errBroken) || tries == 16 {
			return err
		}
	}
}

// message is one message of an answer.
type message struct {
	kind, flags uint16
	seq         uint32
	payload     []byte
}

// receive reads answers until done says so.
func (c *Conn) receive(done func(message) bool) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		data, err := c.socket.ReceiveNetlink(*buf)
		if err != nil {
			return err
		}
		for len(data) >= syscall.NLMSG_HDRLEN {
			n := int(binary.NativeEndian.Uint32(data))
			if n < syscall.NLMSG_HDRLEN || n > len(data) {
				return fmt.Errorf("message of %d bytes in %d: %w", n, len(data), syscall.EBADMSG)
			}
			m := message{
				kind:    binary.NativeEndian.Uint16(data[4:]),
				flags:   binary.NativeEndian.Uint16(data[6:]),
				seq:     binary.NativeEndian.Uint32(data[8:]),
				payload: data[syscall.NLMSG_HDRLEN:n],
			}
			if done(m) {
				return nil
			}
			data = data[min((n+3)&^3, len(data)):]
		}
	}
}

// failure is what an NLMSG_ERROR says: nil for an acknowledgement, else the errno and, where there are any, the kernel's words.
func (m message) failure() error {
	if len(m.payload) < 4 {
		return syscall.EBADMSG
	}
	n := int32(binary.NativeEndian.Uint32(m.payload))
	if n == 0 {
		return nil
	}
	errno := syscall.Errno(-n)
	const request = 4 + syscall.NLMSG_HDRLEN // NETLINK_CAP_ACK: of the request only the header
	words := ""
	if m.flags&ackTLVs != 0 && len(m.payload) > request {
		attributes(m.payload[request:], func(kind uint16, value []byte) {
			if kind == ackMessage {
				words = text(value)
			}
		})
	}
	if words != "" {
		return fmt.Errorf("%w (%s)", errno, words)
	}
	return errno
}
