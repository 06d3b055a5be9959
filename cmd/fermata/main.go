// Command fermata is the daemon and its command line in one binary. It only wires: the work is in packages daemon and cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"fermata/internal/cli"
	"fermata/internal/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Terminal: term.IsTerminal(int(os.Stderr.Fd())),
		Console:  cli.NewConsole(os.Stdin),
		Address:  os.Getenv("FERMATA_ADDRESS"),
		Version:  daemon.Version,
		Daemon:   daemon.Run,
	})
	stop()
	os.Exit(code)
}
