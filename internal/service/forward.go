package service

import (
	"errors"
	"io"
	"sync"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/errs"
)

// PortForward is one connection to a pod's port.
func (s *Service) PortForward(stream fermatav1.Fermata_PortForwardServer) error {
	first, err := stream.Recv()
	if err != nil {
		return notBegun(err)
	}
	start := first.GetStart()
	if start.GetPodId() == "" {
		return errs.New(errs.InvalidArgument, "port-forward: the first message must be start, with a pod_id")
	}
	if start.GetPort() < 1 || start.GetPort() > 65535 {
		return errs.New(errs.InvalidArgument, "port-forward: port: %d is no port", start.GetPort())
	}
	ctx, cancel := s.session(stream.Context())
	defer cancel()
	return verdict(ctx, s.runtime.PortForward(ctx, start.GetPodId(), uint16(start.GetPort()), &forwarded{stream: stream}))
}

// forwarded is the client's side of a forwarded connection.
type forwarded struct {
	stream fermatav1.Fermata_PortForwardServer
	rest   []byte // received and not read
	ended  bool   // the client has no more to send

	once  sync.Once
	close error
}

// Read implements io.Reader.
func (f *forwarded) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.ended {
			return 0, io.EOF
		}
		m, err := f.stream.Recv()
		if errors.Is(err, io.EOF) || err == nil && m.GetEnd() {
			f.ended = true
			continue
		}
		if err != nil {
			return 0, err
		}
		f.rest = m.GetData()
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Write implements io.Writer.
func (f *forwarded) Write(p []byte) (int, error) {
	return sender(func(p []byte) error {
		return f.stream.Send(&fermatav1.PortForwardResponse{Message: &fermatav1.PortForwardResponse_Data{Data: p}})
	}).Write(p)
}

// Close is half: the server has no more to send.
func (f *forwarded) Close() error {
	f.once.Do(func() {
		f.close = f.stream.Send(&fermatav1.PortForwardResponse{Message: &fermatav1.PortForwardResponse_End{End: true}})
	})
	return f.close
}
