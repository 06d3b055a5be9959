package launch

import "fermata/internal/linux"

// StageELF returns the stage's executable for an architecture: constant, static, position fixed, a few hundred bytes.
func StageELF(a Arch) []byte { return nil }

// PauseELF returns the executable of pause.
func PauseELF(a Arch) []byte { return nil }

// Files are the executables of the stage and of pause, on a read-only filesystem that is attached nowhere.
type Files struct {
	// Stage and Pause are locations (O_PATH), executable by [linux.FD.Path] or execveat(2) with AT_EMPTY_PATH. Owned by Files.
	Stage, Pause *linux.FD
}

// NewStage makes the files. Make them once; they may be used by any number of processes.
func NewStage() (*Files, error) { return nil, nil }

// Close closes both; processes that run from them run on.
func (f *Files) Close() error { return linux.CloseAll(f.Stage, f.Pause) }
