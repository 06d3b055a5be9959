package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"fermata/internal/durable"
	"fermata/internal/errs"
)

// StartOptions say how to start a keeper.
type StartOptions struct {
	Binary, Socket, State, Root string
	// LogFile gets the keeper's own words (0600, appended to); "" discards them.
	LogFile string
	// Cgroup is where the keeper is moved, in every hierarchy that lets it ("/fermata-keeper"), so that stopping the caller's unit does not
	// stop it; "" leaves it in the caller's. It is removed when the keeper ends while the caller lives.
	Cgroup string
}

// Start runs the keeper if none answers, and returns when one takes connections. It outlives the caller: it has a session of its own. As long as
// the caller lives, a keeper that ends is reaped.
func Start(ctx context.Context, o StartOptions) error {
	if answers(ctx, o.Socket) {
		return nil
	}
	if err := durable.MakeDir(o.State); err != nil {
		return err
	}
	if len(o.Socket) > 107 { // sun_path of unix(7)
		return errs.New(errs.InvalidArgument, "start keeper: socket path %s is over 107 bytes", o.Socket)
	}
	// Two who start at once: the keeper's own lock lets one win; the other asks that one.
	process, ready, err := spawn(o)
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	defer ready.Close()
	stop := context.AfterFunc(ctx, func() { process.Kill(); ready.Close() })
	defer stop()
	ended := make(chan struct{})
	var groups []string
	if o.Cgroup != "" {
		groups, err = moveTo(o.Cgroup, process.Pid)
	}
	go func() { // ends with the keeper
		process.Wait()
		for _, g := range groups {
			os.Remove(g) // stays if another keeper has been moved there
		}
		close(ended)
	}()
	if err != nil {
		process.Kill()
		<-ended
		return fmt.Errorf("start keeper: %w", err)
	}
	if n, _ := ready.Read(make([]byte, 1)); n == 1 {
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	<-ended
	if answers(ctx, o.Socket) {
		return nil
	}
	return errs.New(errs.Unavailable, "start keeper: it ended before it was ready, see %q", o.LogFile)
}

func answers(ctx context.Context, socket string) bool {
	c, err := Dial(ctx, Options{Socket: socket})
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// spawn starts the binary and returns the pipe that it reports being ready on.
func spawn(o StartOptions) (*os.Process, *os.File, error) {
	out := os.DevNull
	if o.LogFile != "" {
		out = o.LogFile
	}
	words, err := os.OpenFile(out, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer words.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	ready, report, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer report.Close()
	args := []string{o.Binary, "--socket", o.Socket, "--state", o.State, "--root", o.Root, "--ready", "3"}
	process, err := os.StartProcess(o.Binary, args, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Files: []*os.File{null, words, words, report}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		ready.Close()
		return nil, nil, err
	}
	return process, ready, nil
}

// cgroups is where hierarchies are mounted: all of v2, or directories of v1's.
const cgroups = "/sys/fs/cgroup"

// moveTo moves a process to a cgroup, in every hierarchy that lets it but cpuset (v1), where an empty group takes nobody. It returns the
// group's directories. In none is an error.
func moveTo(path string, pid int) (groups []string, err error) {
	hierarchies := []string{cgroups}
	if _, err := os.Stat(filepath.Join(cgroups, "cgroup.procs")); err != nil {
		hierarchies = nil
		entries, err := os.ReadDir(cgroups)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			dir := filepath.Join(cgroups, e.Name())
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && e.Type()&os.ModeSymlink == 0 && e.Name() != "cpuset" {
				hierarchies = append(hierarchies, dir)
			}
		}
	}
	var failed []error
	for _, h := range hierarchies {
		dir := filepath.Join(h, path)
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		groups = append(groups, dir)
	}
	if len(groups) == 0 {
		return nil, fmt.Errorf("move to cgroup %s: %w", path, errors.Join(append(failed, errors.New("no hierarchy took it"))...))
	}
	return groups, nil
}
