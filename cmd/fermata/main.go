// Command fermata is the daemon and its command line in one binary. It only wires: the work is in packages daemon and cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"fermata/internal/cli"
)

// version is set by the Makefile: -ldflags "-X main.version=…".
var version = "unversioned"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Version: version,
	})
	stop()
	os.Exit(code)
}
