package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"fermata/internal/linux"
)

// StageELF returns the stage's executable for an architecture: constant, static, at a fixed address, a few hundred bytes.
func StageELF(a Arch) []byte { return executable(a, codeOf[a].stage) }

// PauseELF returns the executable of pause: it names itself fermata-pause and waits for ever. As PID 1 of a PID namespace it is spared
// every signal from inside it does not handle, which is all; it reaps nothing, the program that starts it sets SIGCHLD to be ignored.
func PauseELF(a Arch) []byte { return executable(a, codeOf[a].pause) }

const (
	elfBase   = 0x400000
	elfAlign  = 0x10000 // the largest page size
	elfHeader = 64
	elfPhdr   = 56
)

// executable wraps code into the smallest executable that asks for a stack without execute permission (PT_GNU_STACK).
func executable(a Arch, code string) []byte {
	const entry = elfHeader + 2*elfPhdr
	machine := [arches]uint16{AMD64: 62, ARM64: 183}[a]
	size := uint64(entry + len(code))
	le := binary.LittleEndian
	b := append(make([]byte, 0, size), "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"...) // 64 bits, little endian
	b = le.AppendUint16(b, 2)                                                                        // ET_EXEC
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)             // EV_CURRENT
	b = le.AppendUint64(b, elfBase+entry) // entry
	b = le.AppendUint64(b, elfHeader)     // program headers
	b = le.AppendUint64(b, 0)             // section headers
	b = le.AppendUint32(b, 0)             // flags
	for _, v := range []uint16{elfHeader, elfPhdr, 2, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = appendPhdr(b, 1, 5, [...]uint64{0, elfBase, elfBase, size, size, elfAlign}) // PT_LOAD, read and execute
	b = appendPhdr(b, 0x6474e551, 6, [...]uint64{5: 16})                            // PT_GNU_STACK, read and write
	return append(b, code...)
}

func appendPhdr(b []byte, kind, flags uint32, words [6]uint64) []byte {
	b = binary.LittleEndian.AppendUint32(b, kind)
	b = binary.LittleEndian.AppendUint32(b, flags)
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// Files are the executables of the stage and of pause, on a read-only filesystem that is attached nowhere.
type Files struct {
	// Stage and Pause are locations (O_PATH), executable by [linux.FD.Path] or execveat(2) with AT_EMPTY_PATH. Owned by Files.
	// Whoever gives syscall.ForkExec such a path duplicates the descriptor above all that the child gets: ForkExec puts the child's
	// descriptors in their places first and would run whichever lands on that number.
	Stage, Pause *linux.FD
}

// NewStage makes the files, for the native architecture. Make them once; they serve any number of processes and outlive their maker for as
// long as one runs. Needs CAP_SYS_ADMIN. pauseLabel is the SELinux label of pause's file, from which a process can begin that has the label of
// a pod; "" for none.
func NewStage(pauseLabel string) (*Files, error) {
	// fs.file-max counts and memory cgroups aside this costs two pages. No noexec, of course.
	fs, err := linux.NewMount("tmpfs", linux.MountNoSuid|linux.MountNoDev,
		linux.Option{Key: "size", Value: "1m"}, linux.Option{Key: "nr_inodes", Value: "8"}, linux.Option{Key: "mode", Value: "0755"})
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	for name, contents := range map[string][]byte{"fermata-stage": StageELF(Native()), "fermata-pause": PauseELF(Native())} {
		if err := writeExecutable(fs, name, contents); err != nil {
			return nil, err
		}
	}
	if err := labelPause(fs, pauseLabel); err != nil {
		return nil, err
	}
	if err := fs.SetSuperblockReadOnly(); err != nil {
		return nil, err
	}
	files := &Files{}
	if files.Stage, err = fs.OpenBeneath("fermata-stage", linux.LocationOnly, 0); err != nil {
		return nil, err
	}
	if files.Pause, err = fs.OpenBeneath("fermata-pause", linux.LocationOnly, 0); err != nil {
		return nil, errors.Join(err, files.Close())
	}
	return files, nil
}

func writeExecutable(dir *linux.FD, name string, contents []byte) error {
	fd, err := dir.OpenBeneath(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	f := fd.File()
	_, err = f.Write(contents)
	// pause is executed by whoever the pod runs as, and the umask does not matter.
	if err := errors.Join(err, f.Chmod(0o555), f.Close()); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return nil
}

func labelPause(dir *linux.FD, label string) error {
	if label == "" {
		return nil
	}
	pause, err := dir.OpenBeneath("fermata-pause", linux.LocationOnly, 0)
	if err != nil {
		return err
	}
	defer pause.Close()
	return pause.LabelTree(label)
}

// Close closes both; processes that run from them run on.
func (f *Files) Close() error { return linux.CloseAll(f.Stage, f.Pause) }
