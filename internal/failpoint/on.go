//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

var armed struct {
	mu      sync.Mutex
	dir     string
	actions map[string]func()
	seen    map[string]bool
}

// Arm makes [Hit] look below dir. actions are what a test can ask for beyond what this package knows ("kill-keeper").
func Arm(dir string, actions map[string]func()) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	armed.mu.Lock()
	defer armed.mu.Unlock()
	armed.dir, armed.actions, armed.seen = dir, actions, map[string]bool{}
	return nil
}

// Hit is a place where a test may make the program fail. The file <dir>/<place, "/" as "~"> says how, and is taken away before it happens:
//
//	error          an error that names the place
//	panic          a panic
//	kill           SIGKILL to this process
//	delay DURATION nothing, later
//	NAME           the action of that name, given to Arm
//
// Several, one a line, happen in order.
func Hit(place string) error {
	armed.mu.Lock()
	dir := armed.dir
	if dir != "" && !armed.seen[place] {
		armed.seen[place] = true
		note(filepath.Join(dir, "seen"), place)
	}
	armed.mu.Unlock()
	if dir == "" {
		return nil
	}
	file := filepath.Join(dir, strings.ReplaceAll(place, "/", "~"))
	b, err := os.ReadFile(file)
	if err != nil {
		return nil //nolint:nilerr // the test wants nothing here
	}
	if err := os.Remove(file); err != nil {
		return nil //nolint:nilerr // another goroutine came first: it fires once
	}
	for _, action := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if err := act(action, place); err != nil {
			return err
		}
	}
	return nil
}

func note(file, place string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err) // only ever in a test's program
	}
	defer f.Close()
	fmt.Fprintln(f, place)
}

func act(action, place string) error {
	name, argument, _ := strings.Cut(action, " ")
	switch name {
	case "error":
		return fmt.Errorf("failpoint %s", place)
	case "panic":
		panic("failpoint " + place)
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it comes before this returns to anybody
	case "delay":
		d, err := time.ParseDuration(argument)
		if err != nil {
			panic(err)
		}
		time.Sleep(d)
		return nil
	}
	do := armed.actions[name]
	if do == nil {
		panic(fmt.Sprintf("failpoint %s: no action %q", place, action))
	}
	do()
	return nil
}
