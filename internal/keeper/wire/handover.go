package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Handover is what a keeper tells the one it becomes by execve(2): which of the descriptors that stay open are what. What else there is to know is in the records
// on disk. It is written to a sealed memfd as
//
//	+-------------+-------+-------+--------+----------+
//	| "fermata\n" | major | minor | length | fields … |
//	| 8 bytes     | u16   | u16   | u32    |          |
//	+-------------+-------+-------+--------+----------+
//
// with the fields of a message. Descriptors are bare numbers: they are this process's.
type Handover struct {
	Listener, Lock int
	Sessions       []HandedSession
	Processes      []HandedProcess
	// Exits are those that are told and not forgotten; some are in no record.
	Exits []Exit
}

// HandedSession is a connection.
type HandedSession struct {
	FD         int
	Subscribed bool
	// Answer is the number of the request that asked for the handover, 0 if that was another's.
	Answer uint64
}

// HandedProcess is a process and what is held for it.
type HandedProcess struct {
	ID  string
	FDs []HandedFD
}

// HandedFD is a descriptor. Name says what of the process it is; the keeper alone gives and knows names.
type HandedFD struct {
	Name string
	FD   int
}

const handoverMagic = "fermata\n"

const handoverHeader = len(handoverMagic) + 8

// MaxHandover is the length of a handover, in bytes: some 300 a process.
const MaxHandover = 64 << 20

const (
	handoverListener = iota + 1
	handoverLock
	handoverSession
	handoverProcess
	handoverExit
)

const (
	handedFD = iota + 1
	handedSubscribed
	handedAnswer
	handedID
	handedFDs
	handedName
)

// Encode returns the whole, header included.
func (h *Handover) Encode() []byte {
	var f fields
	f.number(handoverListener, uint64(h.Listener))
	f.number(handoverLock, uint64(h.Lock))
	for _, s := range h.Sessions {
		var sub fields
		sub.number(handedFD, uint64(s.FD))
		sub.flag(handedSubscribed, s.Subscribed)
		sub.number(handedAnswer, s.Answer)
		f.bytes(handoverSession, sub)
	}
	for _, p := range h.Processes {
		var sub fields
		sub.text(handedID, p.ID)
		for _, fd := range p.FDs {
			var one fields
			one.text(handedName, fd.Name)
			one.number(handedFD, uint64(fd.FD))
			sub.bytes(handedFDs, one)
		}
		f.bytes(handoverProcess, sub)
	}
	for i := range h.Exits {
		f.bytes(handoverExit, h.Exits[i].Encode())
	}
	b := append(make([]byte, 0, handoverHeader+len(f)), handoverMagic...)
	b = binary.LittleEndian.AppendUint16(b, Major)
	b = binary.LittleEndian.AppendUint16(b, Minor)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f)))
	return append(b, f...)
}

// DecodeHandover reads a Handover.
func DecodeHandover(b []byte) (*Handover, error) {
	var h Handover
	if len(b) < handoverHeader || string(b[:len(handoverMagic)]) != handoverMagic {
		return &h, wrap("handover", errors.New("it is none"))
	}
	head := b[len(handoverMagic):]
	if major := binary.LittleEndian.Uint16(head); major != Major {
		return &h, wrap("handover", fmt.Errorf("version %d.%d, want %d", major, binary.LittleEndian.Uint16(head[2:]), Major))
	}
	if n := binary.LittleEndian.Uint32(head[4:]); int64(n) != int64(len(b)-handoverHeader) {
		return &h, wrap("handover", fmt.Errorf("%d bytes, want %d", len(b)-handoverHeader, n))
	}
	err := each(b[handoverHeader:], func(tag uint16, v value) error {
		switch tag {
		case handoverListener:
			return integer(v, &h.Listener)
		case handoverLock:
			return integer(v, &h.Lock)
		case handoverSession:
			s, err := decodeHandedSession(v)
			h.Sessions = append(h.Sessions, s)
			return err
		case handoverProcess:
			p, err := decodeHandedProcess(v)
			h.Processes = append(h.Processes, p)
			return err
		case handoverExit:
			e, err := DecodeExit(v)
			h.Exits = append(h.Exits, *e)
			return err
		}
		return nil
	})
	return &h, wrap("handover", err)
}

func decodeHandedSession(b []byte) (s HandedSession, err error) {
	err = each(b, func(tag uint16, v value) error {
		switch tag {
		case handedFD:
			return integer(v, &s.FD)
		case handedSubscribed:
			return v.flag(&s.Subscribed)
		case handedAnswer:
			return v.number(&s.Answer)
		}
		return nil
	})
	return s, err
}

func decodeHandedProcess(b []byte) (p HandedProcess, err error) {
	err = each(b, func(tag uint16, v value) error {
		switch tag {
		case handedID:
			return v.text(&p.ID)
		case handedFDs:
			var fd HandedFD
			err := each(v, func(tag uint16, v value) error {
				switch tag {
				case handedName:
					return v.text(&fd.Name)
				case handedFD:
					return integer(v, &fd.FD)
				}
				return nil
			})
			p.FDs = append(p.FDs, fd)
			return err
		}
		return nil
	})
	return p, err
}
