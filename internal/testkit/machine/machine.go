// Package machine tells what tests, or a runtime under test, left on the machine: processes, namespaces, mounts, links, cgroups of
// every hierarchy, nftables tables with their chains and elements, and files, FIFOs and directories below given roots.
//
//	before, err := machine.Take(scope)
//	… run pods and remove them …
//	left, err := before.Left(ctx)
//
// What a process of the tests itself leaves open is checked by package leak. Nothing is cleaned up here.
package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Scope says what belongs to the test. On a machine that others use at the same time, name what is the test's.
type Scope struct {
	// All is the whole machine; but files are listed below Dirs only.
	All bool
	// Dirs are trees that are listed completely. A process whose program, working directory, root or command line lies below one, and
	// a mount or bind there, belongs to the test.
	Dirs []string
	// Except are paths below Dirs whose contents are not listed.
	Except []string
	// Cgroups are paths from each hierarchy's root ("/fermata-x"). Processes in them belong to the test.
	Cgroups []string
	// Links are prefixes of names; a link enslaved to one that matches belongs as well.
	Links []string
	// Tables are prefixes of nftables tables' names.
	Tables []string
	// Daemons are processes that go on living: their descriptors are counted by kind, and must be as many as before, or up to Slack
	// more: what a daemon keeps for next time (idle connections) grows with how much is asked at once, not with how much was asked.
	Daemons []int
	Slack   int
}

// Snapshot is what there was at one time: for each thing a line that says what it is.
type Snapshot struct {
	scope Scope
	// things maps a key that stays the same while the thing exists to its description.
	things map[string]string
	// counts are descriptors of Scope.Daemons by process and kind.
	counts map[string]int
	// held are namespaces that belong to the test, as "net:[4026…]"; see Note.
	held map[string]bool
}

// Settle is how long Left waits for what ends by itself: the kernel takes namespaces, cgroups and processes down asynchronously and
// tells nobody.
const Settle = 10 * time.Second

// Take looks at the machine.
func Take(scope Scope) (*Snapshot, error) {
	s := &Snapshot{scope: scope, things: map[string]string{}, counts: map[string]int{}, held: map[string]bool{}}
	err := errors.Join(s.processes(), s.mounts(), s.links(), s.cgroups(), s.tables(), s.files())
	if err != nil {
		return nil, fmt.Errorf("look at the machine: %w", err)
	}
	return s, nil
}

// Note remembers the namespaces of the test's present processes, so that one that outlives them is found by Left, however it is
// kept. Call it while pods run. (With the whole machine as scope it is not needed.)
func (s *Snapshot) Note() error {
	now, err := Take(s.scope)
	if err != nil {
		return err
	}
	for ns := range now.held {
		s.held[ns] = true
	}
	return nil
}

// Accept takes a process that was started since as one that is meant to be there, such as a daemon that was started again, and with it
// the namespaces that it alone holds.
func (s *Snapshot) Accept(pid int) error {
	now, err := Take(s.scope)
	if err != nil {
		return err
	}
	if key, what, ok := process(fmt.Sprintf("/proc/%d", pid)); ok {
		s.things[key] = what
	}
	holders := map[string]int{}
	for key := range now.things {
		if ns, _, ok := strings.Cut(key, heldBy); ok {
			holders[ns]++
		}
	}
	for key, what := range now.things {
		ns, holder, ok := strings.Cut(key, heldBy)
		if ok && holders[ns] == 1 && holder == fmt.Sprintf("open in %d", pid) {
			s.things[key] = what
		}
	}
	return nil
}

// Diff lists what there is now and was not before, a line each, sorted.
func (s *Snapshot) Diff(now *Snapshot) []string {
	var left []string
	for key, what := range now.things {
		if _, was := s.things[key]; was {
			continue
		}
		if ns, _, ok := strings.Cut(key, heldBy); ok && !s.isLeft(ns, now) {
			continue
		}
		left = append(left, what)
	}
	for key, count := range now.counts {
		if was := s.counts[key]; count > was+s.scope.Slack {
			left = append(left, fmt.Sprintf("descriptors: %s: %d, were %d", key, count, was))
		}
	}
	sort.Strings(left)
	return left
}

// heldBy parts a namespace from its holder in the keys of Snapshot.things.
const heldBy = " held by "

// isLeft reports whether a namespace that is held now is one to report: of the test, and new.
func (s *Snapshot) isLeft(ns string, now *Snapshot) bool {
	for key := range s.things {
		if strings.HasPrefix(key, ns+heldBy) {
			return false // it was there before, with another holder
		}
	}
	return s.scope.All || s.held[ns] || now.held[ns]
}

// Left lists what is new since the snapshot, after waiting up to [Settle] for it to go.
func (s *Snapshot) Left(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, Settle)
	defer cancel()
	for {
		now, err := Take(s.scope)
		if err != nil {
			return nil, err
		}
		left := s.Diff(now)
		if len(left) == 0 || ctx.Err() != nil {
			return left, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// processes finds processes, the namespaces they are in or hold, and counts the daemons' descriptors.
func (s *Snapshot) processes() error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		key, what, ok := process(dir)
		if !ok || pid == os.Getpid() {
			continue
		}
		mine := s.owns(dir)
		if mine {
			s.things[key] = what
		}
		s.namespaces(dir, pid, mine)
	}
	for _, pid := range s.scope.Daemons {
		for kind, n := range Descriptors(pid) {
			s.counts[fmt.Sprintf("process %d, %s", pid, kind)] = n
		}
	}
	return nil
}

// process describes a process; ok is false for a kernel's thread and for one that has ended.
func process(dir string) (key, what string, ok bool) {
	stat, err := os.ReadFile(dir + "/stat")
	line, lineErr := os.ReadFile(dir + "/cmdline")
	at := strings.LastIndex(string(stat), ")")
	if err != nil || lineErr != nil || at < 0 {
		return "", "", false
	}
	fields := strings.Fields(string(stat[at+1:]))
	if len(fields) < 20 || fields[1] == "2" || filepath.Base(dir) == "2" { // kthreadd and its children
		return "", "", false
	}
	arguments := strings.ReplaceAll(strings.Trim(string(line), "\x00"), "\x00", " ")
	return fmt.Sprintf("process %s started %s", filepath.Base(dir), fields[19]),
		fmt.Sprintf("process: %s, state %s, %q", stat[:at+1], fields[0], arguments), true
}

// owns reports whether a process belongs to the test.
func (s *Snapshot) owns(proc string) bool {
	if s.scope.All {
		return true
	}
	line, _ := os.ReadFile(proc + "/cmdline")
	for _, dir := range s.scope.Dirs {
		for _, link := range []string{"exe", "cwd", "root"} {
			if to, err := os.Readlink(filepath.Join(proc, link)); err == nil && below(to, dir) {
				return true
			}
		}
		if strings.Contains(string(line), dir+"/") {
			return true
		}
	}
	groups, _ := os.ReadFile(proc + "/cgroup")
	for _, group := range strings.Split(string(groups), "\n") {
		parts := strings.SplitN(group, ":", 3)
		for _, scope := range s.scope.Cgroups {
			if len(parts) == 3 && below(parts[2], scope) {
				return true
			}
		}
	}
	return false
}

// namespaces records who is in which namespace or holds it open. Those of the test's processes are the test's, unless they are the
// ones this program is in too.
func (s *Snapshot) namespaces(proc string, pid int, mine bool) {
	links, _ := filepath.Glob(proc + "/ns/*")
	fds, _ := filepath.Glob(proc + "/fd/*")
	for _, link := range append(links, fds...) {
		to, err := os.Readlink(link)
		kind, inode, ok := strings.Cut(to, ":[")
		if err != nil || !ok || !namespaceKinds[kind] {
			continue
		}
		if ours, _ := os.Readlink("/proc/self/ns/" + kind); ours == to {
			continue
		}
		if mine {
			s.held[to] = true
		}
		how := "in"
		if strings.Contains(link, "/fd/") {
			how = "open in"
		}
		key := fmt.Sprintf("%s%s%s %d", to, heldBy, how, pid)
		comm, _ := os.ReadFile(proc + "/comm")
		s.things[key] = fmt.Sprintf("namespace: %s %s, %s process %d (%s)", kind, strings.TrimSuffix(inode, "]"), how, pid, strings.TrimSpace(string(comm)))
	}
}

var namespaceKinds = map[string]bool{"net": true, "ipc": true, "uts": true, "pid": true, "mnt": true, "user": true, "cgroup": true, "time": true}

// Descriptors counts a process's open descriptors by kind: "file", "socket", "pipe", a namespace's kind, "anon_inode:[eventpoll]", ….
func Descriptors(pid int) map[string]int {
	counts := map[string]int{}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil {
			continue
		}
		kind, _, special := strings.Cut(to, ":[")
		switch {
		case strings.HasPrefix(to, "/"):
			kind = "file"
		case !special:
			kind = to
		}
		counts[kind]++
	}
	return counts
}

// below reports whether a path is dir or in it.
func below(path, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return path == dir || strings.HasPrefix(path, dir+"/")
}
