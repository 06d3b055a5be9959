package keeper

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"fermata/internal/linux"
	"fermata/internal/logs"
)

// A journal is how a log survives the keeper: memory that outlives it (<state>/fifo/<id>.journal). What is taken from a stream is read into the journal, and
// stays there until it is in the log. The journal is a page of notes and a lane for each of two streams:
//
//	0        8        16       64        256       4096
//	+--------+--------+--------+---------+---------+----------------+----------------+
//	| magic  | serial | lane's | note 0  | note 1  | lane of stdout | lane of stderr |
//	|        |        | size   |         |         |                |                |
//	+--------+--------+--------+---------+---------+----------------+----------------+
//
// The note that counts is the one of the serial's parity; the other is written and then made to count by one store. Between two such stores
// the keeper may be killed at any instruction, and its follower finds one of four things:
//
//   - Nothing is in the lanes beyond a piece of a line: it goes on.
//   - A read was about to begin, or had. The note says of how many bytes: a pipe that has them gives them in one go. The lane held a canary where
//     the last of them belong; they differ from it if, and only if, the read took place. (A canary is 16 random bytes. Of less than 16, a pipe's are looked
//     at before, and it is what they are not; a terminal's last 15 bytes are the one place where chance has a say, 1 in 256 for the last.)
//   - A read was done, and its bytes may be in the log, all or some: the log is cut to the length noted, and they are written again.
//   - They were written: the note says so.
type journal struct {
	mem    *linux.Shared
	serial *uint64
	size   int // of a lane
	lanes  [2]lane
	note   note // the one that counts
	random [canarySize]byte
}

// lane is where a stream's bytes are between the pipe and the log.
type lane struct {
	start     int // in the memory
	allocated int // of its size
}

// note is what a follower must know.
type note struct {
	// device, inode and size are the log's, with everything in it that the lanes do not hold.
	device, inode, size uint64
	loss                logs.Loss
	held                [2]span
	// reading is 1 + the lane being read into, 0 for none; count is of how many bytes, canary what was there before.
	reading, count uint32
	canary         [canarySize]byte
}

// span is the part of a lane whose bytes are not in the log.
type span struct{ from, to uint32 }

func (s span) length() int { return int(s.to - s.from) }

const (
	journalMagic = 0x31306c6e726a6d66 // "fmjrnl01"
	serialAt     = 8
	laneSizeAt   = 16
	noteAt       = 64
	noteApart    = 192
	noteSize     = 96
	lanesAt      = 4096
	canarySize   = 16
	firstLane    = 4096 // allocated before anything is read
	keptLane     = 16 << 10
)

// laneSize is the room of a stream whose lines are cut at maxLine: one read, and what is held of a line, twice, so that it can always be moved to the front.
func laneSize(maxLine int) int {
	const page = 4096
	return (readSize + 2*(logs.MaxLine(maxLine)+1) + page - 1) / page * page
}

// newJournal makes an empty one.
func newJournal(path string, maxLine int) (*journal, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // an earlier keeper's
		return nil, err
	}
	j, err := mapJournal(path, laneSize(maxLine))
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(j.mem.Bytes()[laneSizeAt:], uint64(j.size))
	atomic.StoreUint64(j.mem.Word(0), journalMagic)
	return j, nil
}

// openJournal finds an earlier keeper's.
func openJournal(path string, maxLine int) (*journal, error) {
	if _, err := os.Stat(path); err != nil { // mapping would make it
		return nil, err
	}
	j, err := mapJournal(path, laneSize(maxLine))
	if err != nil {
		return nil, err
	}
	head := j.mem.Bytes()
	if *j.mem.Word(0) != journalMagic || binary.LittleEndian.Uint64(head[laneSizeAt:]) != uint64(j.size) {
		j.mem.Close()
		return nil, fmt.Errorf("read journal %s: not one, or of another version", path)
	}
	at := noteAt + int(*j.serial%2)*noteApart
	if j.note, err = decodeNote(head[at:at+noteSize], j.size); err != nil {
		j.mem.Close()
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	for i := range j.lanes { // as far as was in use
		end := int(j.note.held[i].to)
		if j.note.reading == uint32(i)+1 {
			end += int(j.note.count)
		}
		if err := j.allocate(i, end); err != nil {
			j.mem.Close()
			return nil, err
		}
	}
	return j, nil
}

func mapJournal(path string, size int) (*journal, error) {
	mem, err := linux.MapShared(path, lanesAt+2*size)
	if err != nil {
		return nil, err
	}
	j := &journal{mem: mem, serial: mem.Word(serialAt), size: size}
	err = mem.Allocate(0, lanesAt)
	for i := range j.lanes {
		j.lanes[i].start = lanesAt + i*size
		if err == nil {
			err = j.allocate(i, firstLane)
		}
	}
	rand.Read(j.random[:])
	if err != nil {
		mem.Close()
		return nil, err
	}
	return j, nil
}

func (j *journal) close() {
	if j != nil {
		j.mem.Close()
	}
}

// allocate makes the first bytes of a lane safe to touch.
func (j *journal) allocate(i, bytes int) error {
	l := &j.lanes[i]
	if bytes <= l.allocated {
		return nil
	}
	if err := j.mem.Allocate(l.start+l.allocated, l.start+bytes); err != nil {
		return err
	}
	l.allocated = min((bytes+4095)/4096*4096, j.size)
	return nil
}

// bytes is a part of a lane.
func (j *journal) bytes(i int, s span) []byte {
	start := j.lanes[i].start
	return j.mem.Bytes()[start+int(s.from) : start+int(s.to)]
}

// commit makes a note the one that counts.
func (j *journal) commit(n note) {
	j.note = n
	next := *j.serial + 1
	n.encode(j.mem.Bytes()[noteAt+int(next%2)*noteApart:])
	atomic.StoreUint64(j.serial, next)
}

// room makes room to read up to n bytes after what a lane holds, and returns how many may be: none if the filesystem of the journal is full and a piece of a line
// takes up all there is.
func (j *journal) room(i, n int) int {
	s := j.note.held[i]
	if s.length() <= int(s.from) && s.from > 0 { // to the front, where it does not lie on itself
		front := span{0, uint32(s.length())}
		copy(j.bytes(i, front), j.bytes(i, s))
		next := j.note
		next.held[i] = front
		j.commit(next)
		s = front
	}
	n = min(n, j.size-int(s.to))
	if j.allocate(i, int(s.to)+n) != nil {
		n = min(n, j.lanes[i].allocated-int(s.to))
	}
	return n
}

// intend notes that n bytes are about to be read into a lane, whose place it returns; room was made for them. last is what the last of them will be, as far
// as that is known.
func (j *journal) intend(i, n int, last []byte) []byte {
	s := j.note.held[i]
	place := j.bytes(i, span{s.to, s.to + uint32(n)})
	next := j.note
	next.reading, next.count = uint32(i)+1, uint32(n)
	tail := place[n-min(n, canarySize):]
	if copy(tail, j.random[:]); len(last) == len(tail) {
		for k := range tail {
			tail[k] = ^last[k]
		}
	}
	copy(next.canary[:], tail)
	j.commit(next)
	return place
}

// took notes that n bytes were read.
func (j *journal) took(i, n int) {
	next := j.note
	next.reading, next.count = 0, 0
	next.held[i].to += uint32(n)
	j.commit(next)
}

// logged notes that all of a lane but the last bytes are in the log.
func (j *journal) logged(i, left int, size int64, loss logs.Loss) {
	if j == nil {
		return
	}
	next := j.note
	if h := &next.held[i]; left == 0 {
		*h = span{}
	} else {
		h.from = h.to - uint32(left)
	}
	next.size, next.loss = uint64(size), loss
	j.commit(next)
}

// reopened notes another log file.
func (j *journal) reopened(device, inode uint64, size int64, loss logs.Loss) {
	if j == nil {
		return
	}
	next := j.note
	next.device, next.inode, next.size, next.loss = device, inode, uint64(size), loss
	j.commit(next)
}

// idle gives memory back that a burst has taken.
func (j *journal) idle(i int) {
	if j == nil {
		return
	}
	l := &j.lanes[i]
	if j.note.held[i] != (span{}) || l.allocated <= keptLane {
		return
	}
	if j.mem.Free(l.start+keptLane, l.start+l.allocated) == nil {
		l.allocated = keptLane
	}
}

// settle finds out whether a read that was begun took place.
func (j *journal) settle() {
	n := j.note
	if n.reading == 0 {
		return
	}
	i, end := int(n.reading-1), n.held[n.reading-1].to+n.count
	tail := j.bytes(i, span{end - min(n.count, canarySize), end})
	if !bytes.Equal(tail, n.canary[:len(tail)]) {
		n.held[i].to = end
	}
	n.reading, n.count = 0, 0
	j.commit(n)
}

func (n *note) encode(b []byte) {
	for i, v := range [...]uint64{n.device, n.inode, n.size, n.loss.Dropped, n.loss.Unmarked, uint64(n.loss.Cause)} {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	for i, v := range [...]uint32{n.held[0].from, n.held[0].to, n.held[1].from, n.held[1].to, n.reading, n.count} {
		binary.LittleEndian.PutUint32(b[48+4*i:], v)
	}
	copy(b[72:], n.canary[:])
}

// decodeNote reads a note for lanes of a size.
func decodeNote(b []byte, size int) (n note, err error) {
	if len(b) != noteSize {
		return n, fmt.Errorf("note of %d bytes, want %d", len(b), noteSize)
	}
	wide := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	narrow := func(i int) uint32 { return binary.LittleEndian.Uint32(b[48+4*i:]) }
	n = note{
		device: wide(0), inode: wide(1), size: wide(2), loss: logs.Loss{Dropped: wide(3), Unmarked: wide(4), Cause: syscall.Errno(wide(5))},
		held: [2]span{{narrow(0), narrow(1)}, {narrow(2), narrow(3)}}, reading: narrow(4), count: narrow(5),
	}
	copy(n.canary[:], b[72:])
	for i, s := range n.held {
		if s.from > s.to || int64(s.to) > int64(size) {
			return n, fmt.Errorf("lane %d holds bytes %d to %d of %d", i, s.from, s.to, size)
		}
	}
	switch {
	case n.reading > uint32(len(n.held)):
		return n, fmt.Errorf("lane %d is read into", n.reading-1)
	case n.reading == 0 && n.count > 0, n.reading > 0 && (n.count == 0 || int64(n.count) > int64(size)-int64(n.held[n.reading-1].to)):
		return n, fmt.Errorf("%d bytes are read", n.count)
	}
	return n, nil
}
