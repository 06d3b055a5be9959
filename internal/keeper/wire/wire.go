// Package wire is what daemon and keeper say to each other: messages over a SEQPACKET socket, with file descriptors.
//
// # Protocol
//
// A message is sent as one or more packets, all but the last flagged "more"; their fields and their descriptors, in order, make up the
// message. A packet is a header and fields, little endian:
//
//	0      1      2      4       8                16
//	+------+------+------+-------+----------------+-------------------------------+
//	|major |minor | type | flags | request number | fields …                      |
//	| u8   | u8   | u16  | u32   | u64            | tag u16 | length u32 | value … |
//	+------+------+------+-------+----------------+-------------------------------+
//
// A packet's fields may be cut anywhere; a message's may not. Unknown tags are skipped, absent ones are zero; an unknown major
// version ends the connection. Descriptors travel beside the packets (SCM_RIGHTS), never more than [PacketFDs] with one.
//
//	daemon                                             keeper
//	  Hello{subscribe}                    ───────────►              once, first
//	                                      ◄───────────  Reply{}
//	                                      ◄───────────  Exited{exit}      if subscribed: each exit not forgotten, then each new one
//	  Launch{id, kind, …}  + descriptors  ───────────►
//	                                      ◄───────────  Reply{pid, …} + pidfd   or Reply{launch error} or Reply{error}
//	  Signal Processes Pidfd Namespaces   ───────────►
//	  ReopenLog Console Stdin CloseStdin Follow
//	  Restore{id}  + descriptor
//	  Forget Shutdown                     ◄───────────  Reply{…}
//
// A reply bears the number of its request; replies may overtake each other. Exited bears 0. A reply with an error has the fields
// errorKind and errorText, or launchError, and no other.
//
// What belongs elsewhere: sockets (internal/linux), what the keeper does about a message (internal/keeper).
package wire

import (
	"fmt"
	"syscall"
	"time"

	"fermata/internal/linux"
)

// Role says what a descriptor passed with a [Launch] is for.
type Role uint8

// The roles of descriptors. All but Child may come once.
const (
	// Stage is the program that performs the launch program: the process is started as it.
	Stage Role = iota + 1
	// Program is the launch program, the process's descriptor 4.
	Program
	// Stdin, Stdout and Stderr are the process's descriptors 0, 1 and 2 where [Given] says so.
	Stdin
	Stdout
	Stderr
	// Console is a pty's master, read by the keeper as the process's output. The keeper makes it non-blocking.
	Console
	// LogDir is the directory of the log file.
	LogDir
	// Cgroup is a cgroup2 directory that the process is born in.
	Cgroup
	// OOM is memory.events or memory.oom_control of the process's cgroup.
	OOM
	// Child is handed to the process, in order, as descriptors 5 and up.
	Child
	roles
)

var roleNames = [roles]string{"", "stage", "program", "stdin", "stdout", "stderr", "console", "log directory", "cgroup", "OOM counter", "child"}

// String names the role.
func (r Role) String() string {
	if r > 0 && r < roles {
		return roleNames[r]
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Kind says what a process is in its pod.
type Kind uint8

// The kinds of processes.
const (
	// Pause is a pod's first process; the keeper holds its namespaces until it is forgotten.
	Pause Kind = iota + 1
	// Container is a container's first process.
	Container
	// Exec is a process added to a container. Its exit is not recorded on disk: who asked for it is gone if the keeper is.
	Exec
	kinds
)

var kindNames = [kinds]string{"", "pause", "container", "exec"}

// String names the kind.
func (k Kind) String() string {
	if k > 0 && k < kinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Stdio says what one of a process's standard streams is.
type Stdio uint8

// The choices for a stream.
const (
	// Null is /dev/null.
	Null Stdio = iota
	// FIFO is one that the keeper makes and, for output, reads into the log; for stdin, holds open for writing until CloseStdin.
	FIFO
	// Given is a descriptor that came with the message, in the role of the stream.
	Given
	stdios
)

// Log says where output goes.
type Log struct {
	// Base is the file's name, a single path component, in the directory passed as [LogDir].
	Base string
	// MaxLine is the length over which a line is cut in pieces, in bytes; 0 for the usual 16384, -1 for the longest possible.
	MaxLine int
	// MaxSize is the length in bytes over which the log is rotated by the keeper, 0 for never. MaxFiles is how many files there may be then, the current one
	// included; 0 for three.
	MaxSize  int64
	MaxFiles int
	// Rate is how many bytes a second are written in the long run, 0 for any number. What comes faster is dropped, counted, and marked in the log: the process
	// never waits.
	Rate int64
}

// PassedFD is a descriptor and what it is for.
type PassedFD struct {
	Role Role
	// FD is borrowed: the sender closes its own.
	FD *linux.FD
}

// Launch asks for a process.
type Launch struct {
	// ID is the sandbox's, the container's, or "<container id>/<exec id>". It must not be in use (a process not yet forgotten).
	ID   string
	Kind Kind
	// CloneFlags are the namespaces that the process is born into, as clone(2) names them.
	CloneFlags            uint64
	Stdin, Stdout, Stderr Stdio
	// StdioUID and StdioGID own the FIFOs, as the host numbers them.
	StdioUID, StdioGID uint32
	// Log is where the FIFOs' or the console's output is logged; nil discards it.
	Log *Log
	// Again says that a pause of this ID has ended and that this one takes its place: the ID is in use and is forgotten, and until the launch is through the keeper holds
	// the namespaces of the one before. If the launch fails all is as it was.
	Again bool
	FDs   []PassedFD
}

// Launched is a process that runs its program's last step: the container's command, or pause.
type Launched struct {
	PID int
	// Pidfd belongs to the receiver.
	Pidfd *linux.FD
	// PidfdInode tells this process from any other that has its PID later, Linux 6.9.
	PidfdInode uint64
	Started    time.Time
}

// LaunchError is a launch that failed in its program; there is no process.
type LaunchError struct {
	// Op is the operation of the program that failed, as launch.Program.Failure understands it; -1 if it was before the program's first.
	Op int
	// Errno is why, 0 if unknown.
	Errno syscall.Errno
	// Err is the whole text, for readers.
	Err string
}

// Error returns the text.
func (e *LaunchError) Error() string { return e.Err }

// Unwrap returns the errno, if known.
func (e *LaunchError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Exit is how a process ended.
type Exit struct {
	ID   string
	Kind Kind
	PID  int
	// Code is the exit status, or 128 plus Signal.
	Code int
	// Signal is the signal that ended it, 0 for none.
	Signal syscall.Signal
	// OOMKilled says that the kernel's out-of-memory killer struck in the process's cgroup while it ran, and that it did not end well.
	OOMKilled         bool
	Started, Finished time.Time
	// LogDropped counts the bytes of log entries that could not be written because the disk refused them.
	LogDropped uint64
	// Unknown says that nobody saw how it ended: Code is 255.
	Unknown bool
	// Note says, for readers, why that is, or what else is odd about the end.
	Note string
}

// Process is one that the keeper launched and that is not forgotten.
type Process struct {
	ID         string
	Kind       Kind
	PID        int
	PidfdInode uint64
	Started    time.Time
	// Exit is nil while the process runs.
	Exit *Exit
}
