package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"fermata/internal/linux"
)

// The version spoken. Within a major version, fields and types are only added.
const (
	Major = 1
	Minor = 0
)

// Bounds on what is received; more ends the connection.
const (
	// MaxMessage is the length of a message's fields, in bytes.
	MaxMessage = 256 << 10
	// MaxFDs is the number of a message's descriptors.
	MaxFDs = 256
	// PacketFDs is the number of one packet's.
	PacketFDs = linux.PacketFDs

	headerSize = 16
	maxPacket  = 32 << 10 // well below the smallest usual socket buffer
	flagMore   = 1
)

// Message is one message with its envelope.
type Message struct {
	Type    Type
	Request uint64
	Body    []byte
	// FDs are borrowed when sending, the receiver's own when received.
	FDs []*linux.FD
}

// Conn sends and receives messages. Any number of goroutines may send; one may receive.
type Conn struct {
	packets *linux.Packets
	send    sync.Mutex // one message's packets follow each other
	buf     []byte     // Receive's
}

// PeerPID is the process at the other end, of one that connected.
func (c *Conn) PeerPID() (int, error) { return c.packets.PeerPID() }

// NewConn speaks over packets, which it owns.
func NewConn(packets *linux.Packets) *Conn {
	return &Conn{packets: packets, buf: make([]byte, maxPacket)}
}

// Wait waits until there is something to receive, or nothing ever will be.
func (c *Conn) Wait() error { return c.packets.Wait() }

// Hand keeps the connection open over execve(2) and returns its descriptor's number; keep false takes that back.
func (c *Conn) Hand(keep bool) (int, error) { return c.packets.Hand(keep) }

// Close ends the connection and whoever waits on it.
func (c *Conn) Close() error { return c.packets.Close() }

// Send sends a message, waiting for room.
func (c *Conn) Send(m Message) error {
	if len(m.Body) > MaxMessage || len(m.FDs) > MaxFDs {
		return fmt.Errorf("send message: %d bytes and %d descriptors are over %d and %d", len(m.Body), len(m.FDs), MaxMessage, MaxFDs)
	}
	c.send.Lock()
	defer c.send.Unlock()
	for body, fds := m.Body, m.FDs; ; {
		n, k := min(len(body), maxPacket-headerSize), min(len(fds), PacketFDs)
		h := header{Type: m.Type, Request: m.Request, More: n < len(body) || k < len(fds)}
		if err := c.packets.Send(h.encode(body[:n]), fds[:k]); err != nil {
			return err
		}
		if !h.More {
			return nil
		}
		body, fds = body[n:], fds[k:]
	}
}

// Receive waits for a message. Its error is final: the connection is of no use any more. io.EOF says that the other end closed.
func (c *Conn) Receive() (m Message, err error) {
	defer func() {
		if err != nil {
			linux.CloseAll(m.FDs...)
			m = Message{}
		}
	}()
	for first := true; ; first = false {
		n, fds, err := c.packets.Receive(c.buf)
		if err != nil {
			return m, err
		}
		m.FDs = append(m.FDs, fds...)
		h, body, err := decodeHeader(c.buf[:n])
		switch {
		case err != nil:
			return m, err
		case first:
			m.Type, m.Request = h.Type, h.Request
		case h.Type != m.Type || h.Request != m.Request:
			return m, errors.New("receive message: another one's packet in its middle")
		}
		m.Body = append(m.Body, body...)
		if len(m.Body) > MaxMessage || len(m.FDs) > MaxFDs {
			return m, errors.New("receive message: too long")
		}
		if !h.More {
			return m, nil
		}
		if len(body) == 0 && len(fds) == 0 {
			return m, errors.New("receive message: an empty packet with more to come")
		}
	}
}

type header struct {
	Type    Type
	Request uint64
	More    bool
}

func (h header) encode(body []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body))
	b[0], b[1] = Major, Minor
	binary.LittleEndian.PutUint16(b[2:], uint16(h.Type))
	if h.More {
		binary.LittleEndian.PutUint32(b[4:], flagMore)
	}
	binary.LittleEndian.PutUint64(b[8:], h.Request)
	return append(b, body...)
}

func decodeHeader(b []byte) (header, []byte, error) {
	if len(b) < headerSize {
		return header{}, nil, errors.New("receive message: packet without a whole header")
	}
	if b[0] != Major {
		return header{}, nil, fmt.Errorf("receive message: version %d.%d, want %d", b[0], b[1], Major)
	}
	return header{
		Type:    Type(binary.LittleEndian.Uint16(b[2:])),
		Request: binary.LittleEndian.Uint64(b[8:]),
		More:    binary.LittleEndian.Uint32(b[4:])&flagMore != 0,
	}, b[headerSize:], nil
}
