// Package cli is the command line: one file a command. Every command but `daemon` is a client of the daemon's socket like any
// other and speaks CRI v1 and, for what CRI has no word for, fermata.v1. It holds no state and knows no file of the daemon's.
//
// An error says what was done to which object, the cause, and what to do about it where that is known.
package cli

import (
	"context"
	"fmt"
	"io"

	"fermata/internal/config"
)

// Env is what a command may use of the process it runs in.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Version is this binary's own.
	Version string
	// Daemon runs the daemon until ctx ends; nil in a binary without one.
	Daemon func(ctx context.Context, cfg *config.Config) error
}

// Main runs the command that args (without the program's name) ask for and returns the exit status: 0, 1 for a failure, 2 for a
// command line that cannot be understood.
func Main(ctx context.Context, args []string, env Env) int {
	if len(args) > 0 && args[0] == "daemon" && env.Daemon != nil {
		cfg, err := config.Load(args[1:])
		if err == nil {
			err = env.Daemon(ctx, cfg)
		}
		if err != nil {
			fmt.Fprintln(env.Stderr, "fermata:", err)
			return 1
		}
	}
	return 0
}
