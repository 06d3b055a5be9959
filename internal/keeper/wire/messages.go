package wire

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"fermata/internal/errs"
)

// Type says what a message is.
type Type uint16

// The messages; who sends which is drawn in the package's documentation.
const (
	// TypeHello opens a connection: Request.Subscribe.
	TypeHello Type = iota + 1
	// TypeReply answers any request: Reply.
	TypeReply
	// TypeExited reports an exit: Exit.
	TypeExited
	// TypeLaunch starts a process: Launch, with its descriptors.
	TypeLaunch
	// TypeSignal signals a process: Request.ID, Signal.
	TypeSignal
	// TypeProcesses lists processes, in the order of their IDs: Request.After. Reply.Processes, More.
	TypeProcesses
	// TypePidfd asks for a process's pidfd: Request.ID. One descriptor.
	TypePidfd
	// TypeNamespaces asks for a pause's namespaces: Request.ID. Reply.Names and as many descriptors.
	TypeNamespaces
	// TypeReopenLog starts a new log file: Request.ID, Base, and the directory's descriptor.
	TypeReopenLog
	// TypeConsole asks for a pty's master: Request.ID. One descriptor.
	TypeConsole
	// TypeStdin asks for stdin's writing end: Request.ID. One descriptor.
	TypeStdin
	// TypeCloseStdin closes stdin's writing end: Request.ID.
	TypeCloseStdin
	// TypeForget drops an ended process: Request.ID.
	TypeForget
	// TypeShutdown ends the keeper, if it holds nothing.
	TypeShutdown
	// TypeFollow copies what a process writes from now on: Request.ID, Streams, and the writing end of a non-blocking pipe for each.
	TypeFollow
	// TypeRestore gives back the master of a process's terminal to a keeper that has none, as it follows one that was killed: Request.ID. One descriptor.
	TypeRestore
	// TypeUpgrade has the keeper execute another binary in its place: Request.Path. The one that it becomes answers.
	TypeUpgrade
	types
)

// Request is every request but [Launch]; which fields count is said at the [Type].
type Request struct {
	ID, After, Base string
	Signal          syscall.Signal
	Subscribe       bool
	// Streams are "stdout" and "stderr", in the order of the descriptors.
	Streams []string
	// Path is a binary's.
	Path string
}

const (
	requestID = iota + 1
	requestAfter
	requestBase
	requestSignal
	requestSubscribe
	requestStream
	requestPath
)

// Encode returns the message's fields.
func (r *Request) Encode() []byte {
	var f fields
	f.text(requestID, r.ID)
	f.text(requestAfter, r.After)
	f.text(requestBase, r.Base)
	f.number(requestSignal, uint64(r.Signal))
	f.flag(requestSubscribe, r.Subscribe)
	for _, name := range r.Streams {
		f.bytes(requestStream, []byte(name))
	}
	f.text(requestPath, r.Path)
	return f
}

// DecodeRequest reads a Request.
func DecodeRequest(b []byte) (*Request, error) {
	var r Request
	err := each(b, func(tag uint16, v value) error {
		switch tag {
		case requestID:
			return v.text(&r.ID)
		case requestAfter:
			return v.text(&r.After)
		case requestBase:
			return v.text(&r.Base)
		case requestSignal:
			return integer(v, &r.Signal)
		case requestSubscribe:
			return v.flag(&r.Subscribe)
		case requestStream:
			r.Streams = append(r.Streams, string(v))
		case requestPath:
			return v.text(&r.Path)
		}
		return nil
	})
	return &r, wrap("request", err)
}

// Reply answers a request. Err and Launch failures exclude everything else.
type Reply struct {
	// Err is an error with its kind ([errs.Error]) or a [*LaunchError]; nil for success.
	Err error
	// Launched answers Launch; its Pidfd is the reply's descriptor and nil here.
	Launched Launched
	// Processes and More answer Processes: More says to ask again after the last one.
	Processes []Process
	More      bool
	// Names answers Namespaces: what the descriptors are, in order.
	Names []string
	// Executable answers Hello: the path of the keeper's binary.
	Executable string
}

const (
	replyErrorKind = iota + 1
	replyErrorText
	replyLaunchError
	replyPID
	replyInode
	replyStarted
	replyProcess
	replyMore
	replyName
	replyExecutable
)

const (
	launchErrorOp = iota + 1 // op + 1, as -1 is one of its values
	launchErrorErrno
	launchErrorText
)

// Encode returns the message's fields.
func (r *Reply) Encode() []byte {
	var f fields
	switch e := r.Err.(type) {
	case nil:
	case *LaunchError:
		var sub fields
		sub.number(launchErrorOp, uint64(e.Op+1))
		sub.number(launchErrorErrno, uint64(e.Errno))
		sub.text(launchErrorText, e.Err)
		f.bytes(replyLaunchError, sub)
		return f
	default:
		f.bytes(replyErrorText, []byte(e.Error()))
		f.number(replyErrorKind, uint64(errs.KindOf(e)))
		return f
	}
	f.number(replyPID, uint64(r.Launched.PID))
	f.number(replyInode, r.Launched.PidfdInode)
	f.time(replyStarted, r.Launched.Started)
	for i := range r.Processes {
		f.bytes(replyProcess, r.Processes[i].encode())
	}
	f.flag(replyMore, r.More)
	for _, n := range r.Names {
		f.bytes(replyName, []byte(n))
	}
	f.text(replyExecutable, r.Executable)
	return f
}

// DecodeReply reads a Reply.
func DecodeReply(b []byte) (*Reply, error) {
	var r Reply
	var kind errs.Kind
	var text *string
	err := each(b, func(tag uint16, v value) error {
		switch tag {
		case replyErrorKind:
			return integer(v, &kind)
		case replyErrorText:
			text = new(string)
			return v.text(text)
		case replyLaunchError:
			e, err := decodeLaunchError(v)
			r.Err = e
			return err
		case replyPID:
			return integer(v, &r.Launched.PID)
		case replyInode:
			return v.number(&r.Launched.PidfdInode)
		case replyStarted:
			return v.time(&r.Launched.Started)
		case replyProcess:
			p, err := decodeProcess(v)
			r.Processes = append(r.Processes, p)
			return err
		case replyMore:
			return v.flag(&r.More)
		case replyName:
			r.Names = append(r.Names, string(v))
		case replyExecutable:
			return v.text(&r.Executable)
		}
		return nil
	})
	if text != nil {
		r.Err = errs.New(kind, "%s", *text)
	}
	return &r, wrap("reply", err)
}

func decodeLaunchError(b []byte) (*LaunchError, error) {
	e := LaunchError{Op: -1}
	err := each(b, func(tag uint16, v value) error {
		switch tag {
		case launchErrorOp:
			err := integer(v, &e.Op)
			e.Op--
			return err
		case launchErrorErrno:
			var n uint64
			err := v.number(&n)
			e.Errno = syscall.Errno(n)
			return err
		case launchErrorText:
			return v.text(&e.Err)
		}
		return nil
	})
	return &e, err
}

const (
	processID = iota + 1
	processKind
	processPID
	processInode
	processStarted
	processExit
)

func (p *Process) encode() []byte {
	var f fields
	f.text(processID, p.ID)
	f.number(processKind, uint64(p.Kind))
	f.number(processPID, uint64(p.PID))
	f.number(processInode, p.PidfdInode)
	f.time(processStarted, p.Started)
	if p.Exit != nil {
		f.bytes(processExit, p.Exit.Encode())
	}
	return f
}

func decodeProcess(b []byte) (Process, error) {
	var p Process
	err := each(b, func(tag uint16, v value) (err error) {
		switch tag {
		case processID:
			return v.text(&p.ID)
		case processKind:
			return integer(v, &p.Kind)
		case processPID:
			return integer(v, &p.PID)
		case processInode:
			return v.number(&p.PidfdInode)
		case processStarted:
			return v.time(&p.Started)
		case processExit:
			p.Exit, err = DecodeExit(v)
		}
		return err
	})
	return p, err
}

const (
	exitID = iota + 1
	exitKind
	exitPID
	exitCode
	exitSignal
	exitOOM
	exitStarted
	exitFinished
	exitLogDropped
	exitUnknown
	exitNote
)

// Encode returns the message's fields.
func (e *Exit) Encode() []byte {
	var f fields
	f.text(exitID, e.ID)
	f.number(exitKind, uint64(e.Kind))
	f.number(exitPID, uint64(e.PID))
	f.number(exitCode, uint64(e.Code))
	f.number(exitSignal, uint64(e.Signal))
	f.flag(exitOOM, e.OOMKilled)
	f.time(exitStarted, e.Started)
	f.time(exitFinished, e.Finished)
	f.number(exitLogDropped, e.LogDropped)
	f.flag(exitUnknown, e.Unknown)
	f.text(exitNote, e.Note)
	return f
}

// DecodeExit reads an Exit.
func DecodeExit(b []byte) (*Exit, error) {
	var e Exit
	err := each(b, func(tag uint16, v value) error {
		switch tag {
		case exitID:
			return v.text(&e.ID)
		case exitKind:
			return integer(v, &e.Kind)
		case exitPID:
			return integer(v, &e.PID)
		case exitCode:
			return integer(v, &e.Code)
		case exitSignal:
			return integer(v, &e.Signal)
		case exitOOM:
			return v.flag(&e.OOMKilled)
		case exitStarted:
			return v.time(&e.Started)
		case exitFinished:
			return v.time(&e.Finished)
		case exitLogDropped:
			return v.number(&e.LogDropped)
		case exitUnknown:
			return v.flag(&e.Unknown)
		case exitNote:
			return v.text(&e.Note)
		}
		return nil
	})
	return &e, wrap("exit", err)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("decode %s: %w", what, err)
	}
	return nil
}

// FIFODir is where in the state directory the FIFOs are.
const FIFODir = "fifo"

// FIFOPath is where the FIFO of a process's stream is: "stdin", "stdout", "stderr". A daemon opens them too: what is in them then outlives process and keeper.
func FIFOPath(state, id, stream string) string {
	return filepath.Join(state, FIFODir, FileName(id)+"."+stream)
}

// FileName makes an ID one path component; '+' is no part of IDs.
func FileName(id string) string { return strings.ReplaceAll(id, "/", "+") }

// CheckID reports whether an ID is one that the keeper takes: up to 200 letters, digits, '_', '-' and '.', with at most one '/' within
// that parts a container's from an exec's. It becomes part of file names.
func CheckID(id string) error {
	parts := strings.Split(id, "/")
	ok := len(id) <= 200 && len(parts) <= 2
	for _, p := range parts {
		ok = ok && p != "" && p[0] != '.' && !strings.ContainsFunc(p, func(r rune) bool {
			return r != '_' && r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
	}
	if !ok {
		return errs.New(errs.InvalidArgument, "id %q: not letters, digits, '_', '-', '.' and one '/'", id)
	}
	return nil
}
