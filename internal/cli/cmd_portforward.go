package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	fermatav1 "fermata/api/fermata/v1"
)

var portForwardCommand = command{
	name: "port-forward", args: "[flags] POD [LOCAL:]REMOTE...", group: groupPods, min: 2, max: -1,
	brief: "reach a pod's ports from here",
	long: `Connections to a local port go to that port at the pod's own loopback address, until Ctrl-C or the pod's end. One
that fails is told and ends alone. Without LOCAL it is REMOTE's number; ":80" takes any that is free.`,
	example: "sudo fermata port-forward web 8080:80\nsudo fermata port-forward --bind 0.0.0.0 web :80 9090",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		bind := flags.String("bind", "localhost", "local `ADDRESS` to listen on")
		return func(ctx context.Context, args []string) error {
			var ports []portPair
			for _, text := range args[1:] {
				p, err := parsePorts(text)
				if err != nil {
					return err
				}
				ports = append(ports, p)
			}
			return s.portForward(ctx, args[0], *bind, ports)
		}
	},
}

// portPair is a local port (0: any) and the pod's.
type portPair struct{ local, remote uint16 }

func parsePorts(text string) (portPair, error) {
	local, remote, two := strings.Cut(text, ":")
	if !two {
		remote = local
	}
	var p portPair
	to, err := strconv.ParseUint(remote, 10, 16)
	if err != nil || to == 0 {
		return p, misused("port %q: reads REMOTE, LOCAL:REMOTE or :REMOTE, of numbers from 1 to 65535", text)
	}
	from := to
	if two {
		if from, err = strconv.ParseUint("0"+local, 10, 16); err != nil {
			return p, misused("port %q: %q is no port", text, local)
		}
	}
	return portPair{uint16(from), uint16(to)}, nil
}

// forwarding is one command's listeners and connections.
type forwarding struct {
	*session
	client fermatav1.FermataClient
	id     string
	ctx    context.Context
	// end ends all: the pod has.
	end  context.CancelCauseFunc
	work sync.WaitGroup
	mu   sync.Mutex // one line at a time
}

func (s *session) portForward(ctx context.Context, name, bind string, ports []portPair) error {
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	p, err := v.pod(name)
	if err != nil {
		return err
	}
	f := &forwarding{session: s, id: p.Id}
	if f.client, err = s.fermata(ctx); err != nil {
		return err
	}
	f.ctx, f.end = context.WithCancelCause(ctx)
	defer f.work.Wait()
	defer f.end(nil)
	for _, port := range ports {
		if err := f.listen(bind, port); err != nil {
			return fmt.Errorf("forward port %d of %s: %w", port.remote, podName(p), err)
		}
	}
	<-f.ctx.Done()
	if cause := context.Cause(f.ctx); !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("forward ports of %s: %w", podName(p), cause)
	}
	return nil // Ctrl-C is how it is ended
}

// listen serves a local port, at both loopback addresses if it is to be localhost.
func (f *forwarding) listen(bind string, port portPair) error {
	hosts := []string{bind}
	if bind == "localhost" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	served := false
	for _, host := range hosts {
		l, err := (&net.ListenConfig{}).Listen(f.ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port.local))))
		if err != nil && served { // a machine without IPv6
			continue
		}
		if err != nil {
			return err
		}
		served = true
		port.local = uint16(l.Addr().(*net.TCPAddr).Port)
		f.tell(f.Stdout, "Forwarding from %s -> %d", l.Addr(), port.remote)
		context.AfterFunc(f.ctx, func() { l.Close() })
		f.work.Go(func() { f.accept(l, port.remote) })
	}
	return nil
}

func (f *forwarding) tell(to io.Writer, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(to, format+"\n", args...)
}

func (f *forwarding) accept(l net.Listener, remote uint16) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if f.ctx.Err() == nil {
				f.end(err)
			}
			return
		}
		f.work.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(f.ctx, func() { conn.Close() })()
			err := f.forward(conn.(*net.TCPConn), remote)
			if err == nil || f.ctx.Err() != nil {
				return
			}
			if f.over(err) {
				f.end(err)
				return
			}
			f.tell(f.Stderr, "fermata: connection to port %d: %s", remote, strings.ReplaceAll(plain(err), "\n", "; "))
		})
	}
}

// over says whether no other connection can succeed either: the pod has ended, or the daemon. That nobody listens at a port is a failed
// precondition too, so the pod itself is asked for.
func (f *forwarding) over(err error) bool {
	switch status.Code(err) {
	case codes.NotFound:
		return true
	case codes.FailedPrecondition, codes.Unavailable:
		client, err := f.runtime(f.ctx)
		if err != nil {
			return true
		}
		pod, err := client.PodSandboxStatus(f.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: f.id})
		return err != nil || pod.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return false
}

// forward joins one connection to the pod's port. Either side may end what it has to say before the other does.
func (f *forwarding) forward(conn *net.TCPConn, remote uint16) error {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	stream, err := f.client.PortForward(ctx)
	if err != nil {
		return err
	}
	start := &fermatav1.PortForwardStart{PodId: f.id, Port: uint32(remote)}
	err = stream.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Start{Start: start}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	f.work.Go(func() { sendConnection(stream, conn, cancel) })
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil { // the client broke off
				return nil
			}
			return err
		}
		if m.GetEnd() {
			err = conn.CloseWrite()
		} else {
			_, err = conn.Write(m.GetData())
		}
		if err != nil {
			return nil // the client is gone: nobody is there to be told
		}
	}
}

// sendConnection gives what a client says; one that breaks off ends the connection.
func sendConnection(stream fermatav1.Fermata_PortForwardClient, conn *net.TCPConn, broken func()) {
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 && stream.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_Data{Data: buf[:n]}}) != nil {
			return // Recv says why
		}
		if errors.Is(err, io.EOF) {
			stream.Send(&fermatav1.PortForwardRequest{Message: &fermatav1.PortForwardRequest_End{End: true}})
			return
		}
		if err != nil {
			broken()
			return
		}
	}
}
