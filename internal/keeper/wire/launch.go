package wire

import (
	"errors"
	"fmt"
	"strings"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

const (
	launchID = iota + 1
	launchKind
	launchCloneFlags
	launchStdin
	launchStdout
	launchStderr
	launchUID
	launchGID
	launchLog
	launchRole // one for each descriptor, in order
	launchAgain
)

const (
	logBase = iota + 1
	logMaxLine
	logMaxSize
	logMaxFiles
	logRate
)

// Encode returns the message's fields; the descriptors go beside them, in order.
func (l *Launch) Encode() []byte {
	var f fields
	f.text(launchID, l.ID)
	f.number(launchKind, uint64(l.Kind))
	f.number(launchCloneFlags, l.CloneFlags)
	f.number(launchStdin, uint64(l.Stdin))
	f.number(launchStdout, uint64(l.Stdout))
	f.number(launchStderr, uint64(l.Stderr))
	f.number(launchUID, uint64(l.StdioUID))
	f.number(launchGID, uint64(l.StdioGID))
	if l.Log != nil {
		var sub fields
		sub.text(logBase, l.Log.Base)
		sub.number(logMaxLine, uint64(int64(l.Log.MaxLine)))
		sub.number(logMaxSize, uint64(l.Log.MaxSize))
		sub.number(logMaxFiles, uint64(int64(l.Log.MaxFiles)))
		sub.number(logRate, uint64(l.Log.Rate))
		f.bytes(launchLog, sub)
	}
	for _, p := range l.FDs {
		f.number(launchRole, uint64(p.Role))
	}
	f.flag(launchAgain, l.Again)
	return f
}

// DecodeLaunch reads a Launch and puts its roles to the descriptors that came with it, which stay the caller's.
func DecodeLaunch(b []byte, fds []*linux.FD) (*Launch, error) {
	var l Launch
	var roles []Role
	err := each(b, func(tag uint16, v value) (err error) {
		switch tag {
		case launchID:
			return v.text(&l.ID)
		case launchKind:
			return integer(v, &l.Kind)
		case launchCloneFlags:
			return v.number(&l.CloneFlags)
		case launchStdin:
			return integer(v, &l.Stdin)
		case launchStdout:
			return integer(v, &l.Stdout)
		case launchStderr:
			return integer(v, &l.Stderr)
		case launchUID:
			return integer(v, &l.StdioUID)
		case launchGID:
			return integer(v, &l.StdioGID)
		case launchLog:
			l.Log, err = decodeLog(v)
		case launchRole:
			var r Role
			err = integer(v, &r)
			roles = append(roles, r)
		case launchAgain:
			err = v.flag(&l.Again)
		}
		return err
	})
	if err == nil && len(roles) != len(fds) {
		err = fmt.Errorf("%d roles for %d descriptors", len(roles), len(fds))
	}
	if err != nil {
		return &l, wrap("launch", err)
	}
	for i, r := range roles {
		l.FDs = append(l.FDs, PassedFD{Role: r, FD: fds[i]})
	}
	return &l, nil
}

func decodeLog(b []byte) (*Log, error) {
	var l Log
	err := each(b, func(tag uint16, v value) error {
		switch tag {
		case logBase:
			return v.text(&l.Base)
		case logMaxLine:
			return integer(v, &l.MaxLine)
		case logMaxSize:
			return integer(v, &l.MaxSize)
		case logMaxFiles:
			return integer(v, &l.MaxFiles)
		case logRate:
			return integer(v, &l.Rate)
		}
		return nil
	})
	return &l, err
}

// FD returns the descriptor passed in a role, nil if there is none.
func (l *Launch) FD(role Role) *linux.FD {
	for _, p := range l.FDs {
		if p.Role == role {
			return p.FD
		}
	}
	return nil
}

// Children are the descriptors for the process, in order.
func (l *Launch) Children() []*linux.FD {
	var fds []*linux.FD
	for _, p := range l.FDs {
		if p.Role == Child {
			fds = append(fds, p.FD)
		}
	}
	return fds
}

// Check reports what of a Launch can never work, as errs.InvalidArgument.
func (l *Launch) Check() error {
	if err := CheckID(l.ID); err != nil {
		return err
	}
	if err := l.check(); err != nil {
		return errs.New(errs.InvalidArgument, "launch %s: %w", l.ID, err)
	}
	return nil
}

func (l *Launch) check() error {
	if l.Kind == 0 || l.Kind >= kinds {
		return fmt.Errorf("unknown %v", l.Kind)
	}
	seen := map[Role]bool{}
	for _, p := range l.FDs {
		switch {
		case p.Role == 0 || p.Role >= roles:
			return fmt.Errorf("unknown %v", p.Role)
		case seen[p.Role] && p.Role != Child:
			return fmt.Errorf("two descriptors as %v", p.Role)
		}
		seen[p.Role] = true
	}
	if l.Again && l.Kind != Pause {
		return fmt.Errorf("a %v cannot be launched again", l.Kind)
	}
	if !seen[Stage] || !seen[Program] {
		return errors.New("no stage or no program")
	}
	for _, s := range []struct {
		stdio Stdio
		role  Role
	}{{l.Stdin, Stdin}, {l.Stdout, Stdout}, {l.Stderr, Stderr}} {
		if s.stdio >= stdios {
			return fmt.Errorf("%v: unknown choice %d", s.role, s.stdio)
		}
		if (s.stdio == Given) != seen[s.role] {
			return fmt.Errorf("%v: a descriptor must be passed if, and only if, it is to be used", s.role)
		}
	}
	if l.Log != nil && !seen[LogDir] {
		return errors.New("log: no directory passed")
	}
	if l.Log != nil {
		return CheckBase(l.Log.Base)
	}
	return nil
}

// CheckBase reports whether a log file's name is one path component.
func CheckBase(base string) error {
	if base == "" || base == "." || base == ".." || len(base) > 255 || strings.ContainsAny(base, "/\x00") {
		return errs.New(errs.InvalidArgument, "log file %q: not a file name", base)
	}
	return nil
}
