package rtnl

import (
	"encoding/binary"
	"syscall"
)

// Request is one thing asked of the kernel, made by a function of this package and performed by [Conn.Do].
type Request struct {
	// name is operation and object, for errors: "create link fm12".
	name string
	raw  []byte
	// forgiven is an answer that is as good as success.
	forgiven syscall.Errno
}

// Or makes an answer of the kernel as good as success: EEXIST for what may exist, ENODEV for what may be gone.
func (r *Request) Or(e syscall.Errno) *Request {
	r.forgiven = e
	return r
}

func newRequest(name string, kind uint16, flags uint16) *Request {
	r := &Request{name: name, raw: make([]byte, syscall.NLMSG_HDRLEN, 256)}
	binary.NativeEndian.PutUint16(r.raw[4:], kind)
	binary.NativeEndian.PutUint16(r.raw[6:], flags|flagRequest)
	return r
}

// seal fills in the length and the sequence number, and asks for an acknowledgement.
func (r *Request) seal(seq uint32, ack bool) {
	binary.NativeEndian.PutUint32(r.raw, uint32(len(r.raw)))
	binary.NativeEndian.PutUint32(r.raw[8:], seq)
	if ack {
		r.raw[6] |= flagAck
	}
}

// link appends struct ifinfomsg.
func (r *Request) link(family uint8, index int, flags, change uint32) *Request {
	r.raw = append(r.raw, family, 0, 0, 0)
	r.raw = binary.NativeEndian.AppendUint32(r.raw, uint32(index))
	r.raw = binary.NativeEndian.AppendUint32(r.raw, flags)
	r.raw = binary.NativeEndian.AppendUint32(r.raw, change)
	return r
}

// bytes appends an attribute. Everything is padded to four bytes.
func (r *Request) bytes(kind uint16, value []byte) *Request {
	r.raw = binary.NativeEndian.AppendUint16(r.raw, uint16(4+len(value)))
	r.raw = binary.NativeEndian.AppendUint16(r.raw, kind)
	r.raw = append(r.raw, value...)
	for len(r.raw)%4 != 0 {
		r.raw = append(r.raw, 0)
	}
	return r
}

func (r *Request) text(kind uint16, value string) *Request {
	return r.bytes(kind, append([]byte(value), 0))
}

func (r *Request) number(kind uint16, value uint32) *Request {
	return r.bytes(kind, binary.NativeEndian.AppendUint32(nil, value))
}

func (r *Request) byte(kind uint16, value byte) *Request { return r.bytes(kind, []byte{value}) }

// nest appends an attribute made of what inside appends.
func (r *Request) nest(kind uint16, inside func()) *Request {
	start := len(r.raw)
	r.bytes(kind|nested, nil)
	inside()
	binary.NativeEndian.PutUint16(r.raw[start:], uint16(len(r.raw)-start))
	return r
}

// attributes calls each for every attribute of a message's payload. What is cut short or lies about its length ends the walk.
func attributes(p []byte, each func(kind uint16, value []byte)) {
	for len(p) >= 4 {
		n := int(binary.NativeEndian.Uint16(p))
		if n < 4 || n > len(p) {
			return
		}
		each(binary.NativeEndian.Uint16(p[2:])&^uint16(0xc000), p[4:n])
		p = p[min((n+3)&^3, len(p)):]
	}
}

func text(value []byte) string {
	for i, c := range value {
		if c == 0 {
			return string(value[:i])
		}
	}
	return string(value)
}
