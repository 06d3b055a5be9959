package explain

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Kinds are the kinds of namespaces as /proc/PID/ns names them, those that pods share first.
var Kinds = []string{"net", "ipc", "uts", "pid", "mnt", "cgroup", "user"}

// Role is what a process is to its pod.
type Role int

// The roles. Other is everything that a container's first process or an exec started, an exec's own process included; a stranger is nobody's of
// the pods'.
const (
	Stranger Role = iota
	Pause
	First
	Other
)

// Process is one at the moment of the look.
type Process struct {
	PID, Parent int
	// Name is its comm, 15 bytes at most.
	Name    string
	Started time.Time
	// Memory is what it has in memory, shared pages included, in bytes.
	Memory uint64
	// Namespaces are the inodes by kind; empty when they were not asked for, or it is ending.
	Namespaces map[string]uint64
	// Pod and Container are IDs, Pod of what is not a stranger, Container of what is not pause either.
	Pod, Container string
	Role           Role
}

// kernelThread is PF_KTHREAD of proc_pid_stat(5)'s flags: no process of anybody's.
const kernelThread = 0x00200000

// look reads every process; those that end meanwhile are left out.
func (e *Explainer) look(namespaces bool, seen []pods) ([]*Process, error) {
	dir, err := os.Open(e.Proc)
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n[0] < '0' || n[0] > '9' })
	clock, err := e.bootTime()
	if err != nil {
		return nil, err
	}
	owners := ownersOf(seen)
	found := make([]*Process, len(names))
	var work sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		work.Go(func() {
			buf := make([]byte, 4096)
			for i := w; i < len(names); i += workers {
				found[i] = e.process(names[i], clock, owners, buf)
				if namespaces && found[i] != nil {
					found[i].Namespaces = namespacesAt(e.Proc + "/" + names[i])
				}
			}
		})
	}
	work.Wait()
	found = slices.DeleteFunc(found, func(p *Process) bool { return p == nil })
	slices.SortFunc(found, func(a, b *Process) int { return a.PID - b.PID })
	return found, nil
}

// process reads one; nil if it has ended or is the kernel's.
func (e *Explainer) process(name string, boot time.Time, owners *owners, buf []byte) *Process {
	p, err := parseStat(read(e.Proc+"/"+name+"/stat", buf), boot)
	if err != nil {
		return nil
	}
	if !owners.ownFirst(p) { // most are
		owners.own(p, string(read(e.Proc+"/"+name+"/cgroup", buf)))
	}
	return p
}

// namespacesAt reads those of a process by its directory; none of one that has ended or is hidden.
func namespacesAt(dir string) map[string]uint64 {
	all := make(map[string]uint64, len(Kinds))
	_ = linux.LinksAt(dir+"/ns", Kinds, func(kind string, link []byte) {
		if _, inode, ok := parseNamespace(string(link)); ok {
			all[kind] = inode
		}
	})
	return all
}

// read is a small file's beginning, empty when it cannot be read. The next call takes buf again.
func read(path string, buf []byte) []byte {
	n, err := linux.ReadOnce(path, buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// Fields of proc_pid_stat(5), counted from the one after the name.
const (
	statParent = 1
	statFlags  = 6
	statStart  = 19
	statRSS    = 21
)

// ticks is USER_HZ, which proc(5) counts in on every architecture that Go knows.
const ticks = 100

func parseStat(b []byte, boot time.Time) (*Process, error) {
	open, close := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || close < open {
		return nil, errs.New(errs.NotFound, "read process: it has ended")
	}
	fields := strings.Fields(string(b[close+1:]))
	if len(fields) <= statRSS {
		return nil, errs.New(errs.Internal, "read process: %d fields", len(fields))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	if err != nil {
		return nil, err
	}
	var n [4]uint64
	for i, field := range []int{statParent, statFlags, statStart, statRSS} {
		if n[i], err = strconv.ParseUint(fields[field], 10, 64); err != nil {
			return nil, err
		}
	}
	if n[1]&kernelThread != 0 {
		return nil, errs.New(errs.NotFound, "read process: it is the kernel's")
	}
	return &Process{
		PID: pid, Parent: int(n[0]), Name: string(b[open+1 : close]), Memory: n[3] * uint64(os.Getpagesize()),
		Started: boot.Add(time.Duration(n[2]) * (time.Second / ticks)),
	}, nil
}

// bootTime is when the processes' clock was zero.
func (e *Explainer) bootTime() (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(e.Proc, "stat"))
	if err != nil {
		return time.Time{}, err
	}
	_, after, _ := strings.Cut(string(b), "\nbtime ")
	line, _, _ := strings.Cut(after, "\n")
	seconds, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("find when the machine was started: %w", err)
	}
	return time.Unix(seconds, 0), nil
}

// parseNamespace takes "net:[4026531840]" apart.
func parseNamespace(text string) (kind string, inode uint64, ok bool) {
	kind, rest, ok := strings.Cut(text, ":[")
	number, end, closed := strings.Cut(rest, "]")
	inode, err := strconv.ParseUint(number, 10, 64)
	return kind, inode, ok && closed && end == "" && err == nil && slices.Contains(Kinds, kind)
}

// gone says that what was asked about is not there (any more).
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) }
