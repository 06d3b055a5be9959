package daemon

import (
	"context"
	"errors"
	"net"
	"strconv"

	"fermata/internal/linux"
	"fermata/internal/stream"
)

// openStreams starts the server of exec, attach and port-forward sessions. It ends before pods do: its sessions are theirs.
func (p *parts) openStreams(context.Context) (err error) {
	quietKlog(p.log)
	p.streams, err = stream.Listen(p.pods, p.log)
	if err != nil {
		return err
	}
	p.ended("streams", p.streams.Close)
	return nil
}

// dial connects to a port of a sandbox as a process in it would. With the host's network the namespace held is the host's.
func (p *parts) dial(ctx context.Context, sandboxID string, port uint16) (net.Conn, error) {
	held, err := p.keeper.Namespaces(ctx, sandboxID)
	if err != nil {
		return nil, err
	}
	defer closeNamespaces(held)
	var conn net.Conn
	err = linux.OnThrowAwayThread(func() error {
		if err := held["net"].Setns(linux.CloneNewNet); err != nil {
			return err
		}
		// An address, no name: the socket is made by this very thread.
		var d net.Dialer
		d.SetMultipathTCP(false)
		var failed error
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
			if err == nil {
				conn = c
				return nil
			}
			failed = errors.Join(failed, err)
		}
		return failed
	})
	return conn, err
}
