// Package client is the daemon's way to the keeper.
package client

import (
	"context"
	"errors"
	"syscall"

	"fermata/internal/keeper/wire"
	"fermata/internal/linux"
)

// Options say which keeper, and who hears of exits.
type Options struct {
	// Socket is the keeper's path.
	Socket string
	// OnExit is called for each exit, in order, one at a time; exits not yet forgotten are told again to every new Client. nil does
	// not subscribe. It may be called before the Launch that the exit belongs to has returned.
	OnExit func(wire.Exit)
}

// Client is a connection to the keeper.
type Client struct{ done chan struct{} }

var errStub = errors.New("not yet")

// Dial connects to the keeper.
func Dial(ctx context.Context, o Options) (*Client, error) { return nil, errStub }

// Launch starts a process.
func (c *Client) Launch(ctx context.Context, l *wire.Launch) (*wire.Launched, error) {
	return nil, errStub
}

// Signal sends a signal to a process.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error { return errStub }

// Processes lists what the keeper holds.
func (c *Client) Processes(ctx context.Context) ([]wire.Process, error) { return nil, errStub }

// Pidfd returns a handle of a process.
func (c *Client) Pidfd(ctx context.Context, id string) (*linux.FD, error) { return nil, errStub }

// Namespaces returns a pause's namespaces.
func (c *Client) Namespaces(ctx context.Context, id string) (map[string]*linux.FD, error) {
	return nil, errStub
}

// ReopenLog starts a new log file.
func (c *Client) ReopenLog(ctx context.Context, id string, dir *linux.FD, base string) error {
	return errStub
}

// Console returns a duplicate of a pty's master.
func (c *Client) Console(ctx context.Context, id string) (*linux.FD, error) { return nil, errStub }

// Stdin returns a duplicate of the writing end of a process's stdin.
func (c *Client) Stdin(ctx context.Context, id string) (*linux.FD, error) { return nil, errStub }

// CloseStdin closes the keeper's writing end of a process's stdin.
func (c *Client) CloseStdin(ctx context.Context, id string) error { return errStub }

// Forget drops an ended process.
func (c *Client) Forget(ctx context.Context, id string) error { return errStub }

// Shutdown ends a keeper that holds nothing.
func (c *Client) Shutdown(ctx context.Context) error { return errStub }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection.
func (c *Client) Close() error { return nil }

// StartOptions say how to start a keeper.
type StartOptions struct {
	Binary, Socket, State, Root string
	// LogFile gets the keeper's own words; "" discards them.
	LogFile string
	// Cgroup is where the keeper is moved, in every hierarchy; "" leaves it in the caller's.
	Cgroup string
}

// Start runs the keeper if none answers.
func Start(ctx context.Context, o StartOptions) error { return errStub }
