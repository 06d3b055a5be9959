package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"

	"fermata/internal/cadvisor"
	"fermata/internal/cri"
)

// listenForCadvisor makes the socket that cAdvisor asks, if there is to be one: before the CRI's, because a kubelet asks once, as it starts. Without
// it figures lack their labels; pods do not need it, so what keeps it from being made keeps no daemon from starting.
func (p *parts) listenForCadvisor(context.Context) error {
	path := p.cfg.CadvisorPath()
	if path == "" {
		return nil
	}
	var err error
	if p.cadvisor, err = listenWhereNobodyDoes(path); err != nil {
		p.log.Error("cAdvisor gets no answers: the kubelet's figures will lack labels and networks", "error", err)
	}
	return nil
}

// listenWhereNobodyDoes makes a socket for root, replacing one that nobody serves any more.
func listenWhereNobodyDoes(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another program serves there", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// serveCadvisor answers cAdvisor until the returned function ends it.
func (p *parts) serveCadvisor() (end func()) {
	if p.cadvisor == nil {
		return func() {}
	}
	server := grpc.NewServer(cri.Interceptors(p.log)...)
	cadvisor.Register(server, p.pods, Version)
	served := make(chan error, 1)
	go func() { served <- server.Serve(p.cadvisor) }()
	return func() {
		server.Stop()
		if err := <-served; err != nil {
			p.log.Error("answer cAdvisor", "error", err)
		}
	}
}
