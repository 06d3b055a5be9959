package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"

	"golang.org/x/net/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// portForward holds the session of any number of connections to a sandbox.
func (s *Server) portForward(c *session, request any) bool {
	req, ok := request.(*runtimeapi.PortForwardRequest)
	if !ok {
		return false
	}
	do := &forward{c, req.GetPodSandboxId()}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(c.request) {
		c.tunnel(do)
		return true
	}
	do.serve(c, c.request, req.GetPort())
	return true
}

// forward is what a port-forward session does for each connection.
type forward struct {
	c  *session
	id string
}

func (f *forward) serve(w http.ResponseWriter, r *http.Request, ports []int32) {
	o := &portforward.V4Options{Ports: ports}
	portforward.ServePortForward(w, r, f, f.id, "", o, idleTimeout, creationTimeout, portforward.SupportedProtocols)
}

// PortForward implements portforward.PortForwarder. The library's context knows nothing of the session.
func (f *forward) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	if port < 1 || port > 65535 {
		return fmt.Errorf("forward to port %d: no such port", port)
	}
	if !f.c.server.begin() { // the library does not wait for its connections
		return fmt.Errorf("forward to port %d: the server is ending", port)
	}
	defer f.c.server.work.Done()
	err := f.c.server.runtime.PortForward(f.c.ctx, f.id, uint16(port), stream)
	if s, ok := stream.(httpstream.Stream); ok && f.c.ctx.Err() != nil {
		// The client has left. What it has sent and nobody reads would hold its connection's goroutines for ever if the library has forgotten the stream.
		return errors.Join(err, s.Reset())
	}
	return err
}

// tunnel holds a port-forward session of SPDY within one WebSocket (KEP-4006): the messages are the bytes of a SPDY connection.
func (c *session) tunnel(f *forward) {
	server := websocket.Server{
		Handshake: func(config *websocket.Config, _ *http.Request) error {
			if !slices.Contains(config.Protocol, portforward.WebsocketsSPDYTunnelingPortForwardV1) {
				return fmt.Errorf("none of the protocols %q is known", config.Protocol)
			}
			config.Protocol = []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			inner := &http.Request{Method: http.MethodPost, Header: http.Header{}, URL: c.request.URL, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
			inner.Header.Set("Connection", "Upgrade")
			inner.Header.Set("Upgrade", spdy.HeaderSpdy31)
			inner.Header.Set("X-Stream-Protocol-Version", portforward.ProtocolV1Name)
			f.serve(&inside{ws, http.Header{}}, inner.WithContext(c.ctx), nil)
		},
	}
	server.ServeHTTP(c, c.request)
}

// inside is the answer to a request that was never sent: the tunnel is the upgraded connection.
type inside struct {
	conn   net.Conn
	header http.Header
}

// Header implements http.ResponseWriter.
func (i *inside) Header() http.Header { return i.header }

// Write implements http.ResponseWriter; an error that it would tell has nowhere to go.
func (i *inside) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements http.ResponseWriter.
func (i *inside) WriteHeader(int) {}

// Hijack implements http.Hijacker.
func (i *inside) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return i.conn, bufio.NewReadWriter(bufio.NewReader(i.conn), bufio.NewWriter(i.conn)), nil
}
