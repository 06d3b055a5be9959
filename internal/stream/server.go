// Package stream holds sessions with clients of Exec, Attach and PortForward: SPDY/3.1 and WebSocket on a loopback port.
//
// A call of the CRI gives an address with a token that is good for one session, soon; the kubelet (or crictl) takes it and speaks one of these:
//
//	exec, attach   SPDY         v4.channel.k8s.io and its elders         here: see spdy.go
//	               WebSocket    v4.channel.k8s.io and its elders         k8s.io/cri-streaming
//	               WebSocket    v5.channel.k8s.io (a half close)         here: cri-streaming does not know it
//	port-forward   SPDY         portforward.k8s.io                       k8s.io/cri-streaming
//	               WebSocket    v4.channel.k8s.io                        k8s.io/cri-streaming
//	               WebSocket    SPDY/3.1+portforward.k8s.io (tunnelled)  here, then as SPDY
//
// Promises: a client's leaving is noticed at once, also while it is not read from, and ends what the session was for; when a session has ended, its
// connection, goroutines and descriptors are gone; an error of one forwarded connection ends that one.
//
// What belongs elsewhere: what a session does (package pod), who may ask for one (package cri).
package stream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/linux"
	"fermata/internal/pod"
)

const (
	// idleTimeout ends a session in which nothing was said for this long.
	idleTimeout = 4 * time.Hour
	// creationTimeout is how long a SPDY client may take to open its streams.
	creationTimeout = 30 * time.Second
	// headerTimeout is how long a client may take to say what it wants.
	headerTimeout = 30 * time.Second
)

// Runtime is what sessions are with (package pod's Manager). Each method returns when the session has ended; the end of its context is the client's
// leaving.
type Runtime interface {
	Exec(ctx context.Context, containerID string, cmd []string, s *pod.Streams) (code int, err error)
	Attach(ctx context.Context, containerID string, s *pod.Streams) error
	PortForward(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error
}

var _ Runtime = (*pod.Manager)(nil)

// Server serves sessions until Close.
type Server struct {
	runtime  Runtime
	log      *slog.Logger
	tokens   tokens
	listener net.Listener
	http     *http.Server
	ctx      context.Context // ends with Close; all sessions' do
	cancel   context.CancelFunc
	work     sync.WaitGroup // accepting, watching, sessions
	watch    *watch

	mu    sync.Mutex
	ended bool // no session begins any more
}

// Listen serves sessions on a free port of 127.0.0.1: the kubelet, who passes clients' words on, runs on the same machine.
func Listen(r Runtime, log *slog.Logger) (*Server, error) {
	w, err := newWatch()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.poller.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		runtime: r, log: log, listener: l, ctx: ctx, cancel: cancel, watch: w, tokens: tokens{waiting: map[string]waiting{}, now: time.Now},
	}
	mux := http.NewServeMux()
	for path, serve := range map[string]func(*session, any) bool{"exec": s.exec, "attach": s.attach, "portforward": s.portForward} {
		mux.HandleFunc("/"+path+"/{token}", func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, serve) })
	}
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	s.work.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve streams", "error", err)
		}
	})
	s.work.Go(func() { w.run(ctx) })
	return s, nil
}

// Close ends all sessions and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.cancel()
	err := errors.Join(s.http.Close(), s.watch.poller.Wake())
	s.work.Wait()
	return errors.Join(err, s.watch.poller.Close())
}

// Exec gives the address for a command's session.
func (s *Server) Exec(req *runtimeapi.ExecRequest) (url string, err error) {
	return s.address("exec", req)
}

// Attach gives the address for a session with a container.
func (s *Server) Attach(req *runtimeapi.AttachRequest) (url string, err error) {
	return s.address("attach", req)
}

// PortForward gives the address for connections to a sandbox.
func (s *Server) PortForward(req *runtimeapi.PortForwardRequest) (url string, err error) {
	return s.address("portforward", req)
}

func (s *Server) address(path string, req any) (string, error) {
	token, err := s.tokens.put(req)
	if err != nil {
		return "", err
	}
	return "http://" + s.listener.Addr().String() + "/" + path + "/" + token, nil
}

// serve holds the session that a token is for. A token is spent also when what comes is no session: it may have been overheard.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, hold func(*session, any) bool) {
	request, ok := s.tokens.take(r.PathValue("token"))
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	if !s.begin() {
		http.Error(w, "ending", http.StatusServiceUnavailable)
		return
	}
	defer s.work.Done()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	c := &session{server: s, writer: w, ctx: ctx, leave: cancel}
	c.request = r.WithContext(ctx)
	defer c.close()
	if !hold(c, request) {
		http.NotFound(w, r)
	}
}

// begin counts something to be waited for; false when the server is ending.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.work.Add(1)
	return true
}

// session is one client's connection.
type session struct {
	server  *Server
	writer  http.ResponseWriter
	request *http.Request
	ctx     context.Context // ends when the client has left
	leave   context.CancelFunc

	mu   sync.Mutex
	conn net.Conn  // nil until taken from the HTTP server
	dup  *linux.FD // watched
	end  func() bool
}

// Header implements http.ResponseWriter.
func (c *session) Header() http.Header { return c.writer.Header() }

// Write implements http.ResponseWriter.
func (c *session) Write(p []byte) (int, error) { return c.writer.Write(p) }

// WriteHeader implements http.ResponseWriter.
func (c *session) WriteHeader(code int) { c.writer.WriteHeader(code) }

// close ends the connection, if it has become a session.
func (c *session) close() {
	c.leave()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return
	}
	c.end()
	c.conn.Close()
	c.server.watch.remove(c)
}
