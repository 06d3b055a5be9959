package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
)

// DefaultAddress is where a daemon without flags listens.
const DefaultAddress = "unix:///run/fermata/fermata.sock"

// maxMessage is what the kubelet takes, too (pkg/kubelet/cri: 16 MiB).
const maxMessage = 16 << 20

// dialTimeout bounds connecting to a local socket whose owner is stopped or hung.
const dialTimeout = 10 * time.Second

// session is one command's connection to the daemon, made when it is first needed.
type session struct {
	Env
	*globals
	conn *grpc.ClientConn
}

func (s *session) where() string {
	for _, a := range []string{s.address, s.Address, DefaultAddress} {
		if a != "" {
			return a
		}
	}
	return ""
}

// connect makes the connection; the first dial is our own, because a refused socket is best explained by its errno.
func (s *session) connect(ctx context.Context) (*grpc.ClientConn, error) {
	if s.conn != nil {
		return s.conn, nil
	}
	address := s.where()
	path := strings.TrimPrefix(address, "unix://")
	if !strings.HasPrefix(path, "/") {
		return nil, misused("--address %q: an address reads unix:///path/to/fermata.sock", address)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	probe, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, explainDial(address, err)
	}
	probe.Close()
	s.conn, err = grpc.NewClient("passthrough:///"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	return s.conn, err
}

func explainDial(address string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("connect to %s: no daemon there: start one with `sudo fermata daemon` (or `systemctl start fermata`), "+
			"or name another with --address", address)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("connect to %s: the daemon has ended: start it with `sudo fermata daemon` (or `systemctl start fermata`)", address)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("connect to %s: permission denied: only root may speak to the daemon, try `sudo fermata …`", address)
	case errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("connect to %s: the path is too long for a socket (107 bytes)", address)
	}
	return fmt.Errorf("connect to %s: %w", address, err)
}

func (s *session) runtime(ctx context.Context) (runtimeapi.RuntimeServiceClient, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	return runtimeapi.NewRuntimeServiceClient(conn), nil
}

func (s *session) images(ctx context.Context) (runtimeapi.ImageServiceClient, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	return runtimeapi.NewImageServiceClient(conn), nil
}

func (s *session) fermata(ctx context.Context) (fermatav1.FermataClient, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	return fermatav1.NewFermataClient(conn), nil
}

func (s *session) close() {
	if s.conn != nil {
		s.conn.Close()
	}
}

// framing is what gRPC puts before a status's own words.
var framing = regexp.MustCompile(`rpc error: code = \w+ desc = `)

// plain is an error as a person reads it: a gRPC status without its framing, an interrupt by its name, and what to do where that
// follows from the kind alone.
func plain(err error) string {
	text := strings.ReplaceAll(framing.ReplaceAllString(err.Error(), ""), context.Canceled.Error(), "interrupted")
	switch status.Code(err) {
	case codes.Unimplemented:
		return text + " (this daemon does not do that yet; `fermata version` shows which it is)"
	case codes.Unavailable:
		return text + " (is the daemon still running? `fermata info` asks it)"
	}
	return text
}
