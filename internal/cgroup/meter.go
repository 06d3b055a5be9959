package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Meter reads the figures of one group that are asked for every few seconds, and keeps their files open for it: opening and closing costs
// several times what reading does. It is safe for concurrent use. An open file does not keep a group from being removed. Close it.
type Meter struct {
	group *Group

	mu sync.Mutex // guards all below
	// files are by name; nil is one that the machine does not have.
	files map[string]*linux.FD
	buf   []byte
	// closed meters still answer who got them before, but keep nothing open.
	closed bool
}

// Meter returns a meter of the group. It opens nothing yet.
func (g *Group) Meter() *Meter { return &Meter{group: g, files: map[string]*linux.FD{}} }

// MeterFiles is about how many descriptors a meter keeps.
const MeterFiles = 10

// Usage reads what the group uses now: time, memory, swap, the number of processes, and pressure. Of [Stats] it leaves out limits (but memory's),
// throttling, huge pages and devices. A group that does not exist is NotFound.
func (m *Meter) Usage() (Stats, error) {
	if m.group.err != nil {
		return Stats{}, m.group.err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		defer m.drop()
	}
	s, err := m.usage()
	if errs.Is(err, errs.NotFound) && len(m.files) > 0 { // maybe a group that was removed and made again: the old one's files say so
		m.drop()
		s, err = m.usage()
	}
	if err != nil {
		m.drop()
		return Stats{}, fmt.Errorf("read control group %s: %w", m.group.Path(), err)
	}
	return s, nil
}

// Close closes the files. Who reads by the meter at that moment, or later, is answered still, by files opened for that one answer.
func (m *Meter) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.drop()
}

func (m *Meter) drop() {
	for _, f := range m.files {
		f.Close()
	}
	clear(m.files)
	m.buf = nil
}

func (m *Meter) usage() (Stats, error) {
	s := Stats{Time: time.Now()}
	t := m.group.tree
	for _, part := range []struct {
		controller string
		v1, v2     func(*reader, *Stats)
	}{
		{"cpuacct", cpuUsageV1, nil},
		{"memory", memoryUsageV1, memoryUsageV2},
		{"pids", pidsCurrent, pidsCurrent},
	} {
		h := t.with(part.controller)
		if h == nil {
			continue
		}
		read := part.v1
		if h.version == V2 {
			read = part.v2
		}
		if err := m.part(h, read, &s); err != nil {
			return Stats{}, err
		}
	}
	if t.unified != nil {
		if t.with("cpuacct") == nil { // the core of v2 accounts without any controller
			if err := m.part(t.unified, cpuUsageV2, &s); err != nil {
				return Stats{}, err
			}
		}
		pressures(&reader{h: t.unified, rel: m.group.rel, meter: m}, &s)
	}
	return s, nil
}

// pressures reads what tasks waited for. The core of v2 measures it, so a hybrid machine has it too, whoever owns the controllers; a group that
// somebody else made may be missing there.
func pressures(r *reader, s *Stats) {
	s.CPU.Pressure, s.Memory.Pressure, s.IOPressure = r.pressure("cpu.pressure"), r.pressure("memory.pressure"), r.pressure("io.pressure")
}

// part reads one hierarchy's share.
func (m *Meter) part(h *hierarchy, read func(*reader, *Stats), s *Stats) error {
	r := &reader{h: h, rel: m.group.rel, meter: m}
	read(r, s)
	if r.err == nil && r.missed != nil && !h.exists(r.rel) {
		return r.missed
	}
	return r.err
}

// text reads a file through its kept descriptor. The empty text is a file that the machine does not have, or does not fill.
func (m *Meter) text(h *hierarchy, rel, file string) (string, error) {
	f, known := m.files[file]
	if !known {
		opened, err := h.open(rel, file, os.O_RDONLY)
		if errs.Is(err, errs.NotFound) && h.exists(rel) {
			m.files[file] = nil
			return "", nil
		}
		if err != nil {
			return "", err
		}
		f, m.files[file] = opened, opened
	}
	if f == nil {
		return "", nil
	}
	if m.buf == nil {
		m.buf = make([]byte, 8<<10)
	}
	for n := 0; ; {
		if n == len(m.buf) {
			m.buf = append(m.buf, make([]byte, n)...)
		}
		more, err := f.Pread(m.buf[n:], int64(n))
		switch {
		case unsupported(err):
			f.Close()
			m.files[file] = nil
			return "", nil
		case err != nil:
			return "", gone(err)
		case more == 0 || n+more < len(m.buf): // the kernel gives all there is, up to a page at a time
			if more == 0 || m.buf[n+more-1] == '\n' {
				return strings.TrimSuffix(string(m.buf[:n+more]), "\n"), nil
			}
		}
		n += more
	}
}

// keyed is a file of "key value" lines of which a few are wanted.
type keyed string

// value finds a key, false if it is not there.
func (k keyed) value(key string) (uint64, bool) {
	rest := string(k)
	for {
		at := strings.Index(rest, key)
		if at < 0 {
			return 0, false
		}
		after := rest[at+len(key):]
		if (at == 0 || rest[at-1] == '\n') && strings.HasPrefix(after, " ") {
			line, _, _ := strings.Cut(after[1:], "\n")
			n, err := strconv.ParseUint(line, 10, 64)
			return n, err == nil
		}
		rest = after
	}
}

func (k keyed) of(key string) uint64 {
	n, _ := k.value(key)
	return n
}

func cpuUsageV1(r *reader, s *Stats) { s.CPU.Usage = r.number("cpuacct.usage") }

func cpuUsageV2(r *reader, s *Stats) {
	s.CPU.Usage = keyed(r.text("cpu.stat")).of("usage_usec") * microsecond
}

func memoryUsageV1(r *reader, s *Stats) {
	m := &s.Memory
	m.Usage, m.Limit = r.number("memory.usage_in_bytes"), r.limit("memory.limit_in_bytes")
	stat := keyed(r.text("memory.stat"))
	m.RSS, m.PageFaults, m.MajorPageFaults = stat.of("total_rss"), stat.of("total_pgfault"), stat.of("total_pgmajfault")
	m.derive(stat.of("total_inactive_file"))
	if used, ok := stat.value("total_swap"); ok {
		s.Swap.Accounted, s.Swap.Usage = true, used
		if m.Limit == 0 { // then the limit on both together, never below it, is none either
			return
		}
		if both := r.limit("memory.memsw.limit_in_bytes"); both != 0 {
			free := both - min(both, m.Limit)
			s.Swap.Limit = &free
		}
	}
}

func memoryUsageV2(r *reader, s *Stats) {
	m := &s.Memory
	m.Usage, m.Limit = r.number("memory.current"), r.limit("memory.max")
	stat := keyed(r.text("memory.stat"))
	m.RSS, m.PageFaults, m.MajorPageFaults = stat.of("anon"), stat.of("pgfault"), stat.of("pgmajfault")
	m.derive(stat.of("inactive_file"))
	if most := r.text("memory.swap.max"); most != "" {
		s.Swap.Accounted, s.Swap.Usage = true, r.number("memory.swap.current")
		if n, err := number(most); err == nil && n != unlimited {
			s.Swap.Limit = &n
		}
	}
}

func pidsCurrent(r *reader, s *Stats) { s.Pids.Current = r.number("pids.current") }
