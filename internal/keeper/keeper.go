// Package keeper launches the processes of a node's pods, holds what must outlive the daemon, writes their logs, and tells how they
// ended.
//
// There is one keeper a node (a state directory). It decides nothing: the daemon sends it a launch program, descriptors and
// file names over a SEQPACKET socket (package wire), and may die or be replaced at any time. What the keeper promises:
//
//   - A process is reported launched when its program is through and the target runs, or it is gone and the failed step is named.
//   - Its exit is told to every subscribed daemon, again to each that connects later, until one says Forget; it is recorded in
//     <state>/exits, and in <root>/exits when nobody is there to hear it.
//   - Before that, all that the process wrote is in its log (unless the disk does not take it within [drainLimit]).
//   - Killed at any instruction it is followed by one that takes over: processes, exits, logs to the byte, namespaces ([held], [journal]). A terminal's master
//     comes back from a daemon that holds it too. It becomes another version in place, without letting go of anything.
//   - A full disk, a dead disk or a slow daemon stops nobody else.
//   - It holds at most [descriptorsEach] descriptors a process, and refuses a launch that it may have none left for.
//
// # How it works
//
// One goroutine waits on an epoll for pidfds and pipes and only ever hands over: an exit to a goroutine that reaps, drains, records and
// tells; readable output to the one goroutine of that log, which lives while there is something to read. Processes are reaped by pidfd,
// each by itself: never by SIGCHLD or wait4(-1).
//
// A SIGTERM ends the keeper if it holds nothing. Otherwise it stays: containers are not stopped by stopping the runtime.
//
// What belongs elsewhere: what a program does (package engine), what an exit means (package pod), log rotation (the daemon). Nothing here
// parses what a container or a registry wrote.
package keeper

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"fermata/internal/linux"
)

// Main is the keeper's command: --socket, --state and --root as in [Options]; --ready N names a descriptor that is written to and closed
// once connections are taken. It returns the exit status.
func Main(args []string) int {
	fs := flag.NewFlagSet("fermata-keeper", flag.ContinueOnError)
	var o Options
	fs.StringVar(&o.Socket, "socket", "/run/fermata/keeper.sock", "`path` of the socket to listen at")
	fs.StringVar(&o.State, "state", "/run/fermata", "`directory` for what a reboot may take away")
	fs.StringVar(&o.Root, "root", "/var/lib/fermata", "`directory` for what must outlive a reboot")
	fs.IntVar(&o.Inherit, "inherit", 0, "`descriptor` of what the program before handed on, in an upgrade")
	ready := fs.Int("ready", -1, "`descriptor` to report being ready on")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	o.Warn = func(err error) { fmt.Fprintln(os.Stderr, "fermata-keeper:", err) }
	if err := run(o, *ready); err != nil {
		o.Warn(err)
		return 1
	}
	return 0
}

func run(o Options, ready int) error {
	quiet(o.Warn)
	s, err := New(o)
	if err != nil {
		return err
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		for range terminate {
			if err := s.Shutdown(); err != nil {
				o.Warn(fmt.Errorf("not ending: %w", err))
			}
		}
	}()
	if ready >= 0 {
		f := os.NewFile(uintptr(ready), "ready")
		_, err := f.Write([]byte{'\n'})
		o.warn(errors.Join(err, f.Close()))
	}
	return s.Serve()
}

// quiet makes the process small, hard to kill by accident, and closed to inspection.
func quiet(warn func(error)) {
	// Two threads of Go suffice; a heap this small is collected after every few hundred kilobytes.
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(50)
	// Caught and dropped rather than ignored: an ignored signal stays ignored across execve, in every container.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	syscall.Umask(0o022)
	if err := os.Chdir("/"); err != nil { // holds no mount
		warn(err)
	}
	if err := linux.HideFromDebuggers(); err != nil {
		warn(err)
	}
	// Without CAP_SYS_RESOURCE it cannot be lowered (EACCES); the keeper then is as likely a victim as anybody.
	err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
	if err != nil && !errors.Is(err, syscall.EACCES) {
		warn(err)
	}
}
