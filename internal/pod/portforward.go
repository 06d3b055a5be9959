package pod

import (
	"context"
	"fmt"
	"io"
	"net"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Dial connects to a TCP port at the loopback addresses of a sandbox's network namespace, 127.0.0.1 first.
type Dial func(ctx context.Context, sandboxID string, port uint16) (net.Conn, error)

// CanForward says whether a sandbox is one to forward ports of: it is ready. It returns its whole ID.
func (m *Manager) CanForward(id string) (string, error) {
	p, err := m.findPod(id)
	if err != nil {
		return "", err
	}
	if r := p.snapshot(); r.State != Ready {
		return "", errs.New(errs.FailedPrecondition, "find pod sandbox %s: it is %s, not ready", p.id, r.State)
	}
	return p.id, nil
}

// PortForward joins one connection of a client to a port of a sandbox. When one side has no more to say the other is told and may go on. It returns when
// both have ended, an error only if one broke off, or when ctx ends: the client has left.
func (m *Manager) PortForward(ctx context.Context, id string, port uint16, client io.ReadWriteCloser) error {
	id, err := m.CanForward(id)
	if err != nil {
		return err
	}
	server, err := m.Dial(ctx, id, port)
	if err != nil {
		return fmt.Errorf("forward to port %d of pod sandbox %s: %w", port, id, linux.Refused(err)) // nobody listens there
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(server, client)
		if half, ok := server.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		sent <- err
	}()
	_, err = io.Copy(client, server)
	if err != nil {
		return endOfForward(ctx, err)
	}
	if err := client.Close(); err != nil { // half: the client may have more to say
		return endOfForward(ctx, err)
	}
	select {
	case err := <-sent:
		return endOfForward(ctx, err)
	case <-ctx.Done():
		return nil
	}
}

// endOfForward is the error of a connection that broke off; none when that was because the client left.
func endOfForward(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
