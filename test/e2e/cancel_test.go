package e2e

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

var sessions = flag.Int("sessions", 10_000, "how many sessions are cancelled")

// However and whenever clients leave their sessions, no goroutine, descriptor, process or cgroup is left of them.
func TestCancelledSessionsLeaveNothing(t *testing.T) {
	w := start(t)
	t.Logf("-seed %d -sessions %d", *seed, *sessions)
	c := &canceller{world: w, counts: map[string]int{}}
	c.makePod(t)
	c.cancel(t, *sessions/20) // what is made once is made: the exec cgroup, kept connections and handles
	c.settle(t)
	w.baseline(t)
	memory := residentKB(t, w)
	began := time.Now()
	c.cancel(t, *sessions)
	t.Logf("cancelled in %v", time.Since(began))
	c.settle(t)
	t.Logf("sessions: %v", c.counts)
	left, err := w.before.Left(t.Context())
	check(t, err)
	if len(left) != 0 {
		t.Errorf("left while the pod runs:\n%s", strings.Join(left, "\n"))
	}
	c.remembersNothing(t, memory)
	w.fewGoroutines(t)
}

// remembersNothing waits until the daemon and the keeper have what they had before, in kB, and a few bytes a session at most.
//
// It takes a while, all of it the library's and bounded: a SPDY connection has almost a megabyte for compressing headers, and is kept for a second when it was
// closed under spdystream, for thirty when half a forwarded connection was begun on it (monitorStreamPair). And an idle daemon does not
// look for garbage for two minutes: answers of no use make it.
func (c *canceller) remembersNothing(t *testing.T, memory int) {
	t.Helper()
	most := memory + 64<<10
	peak, now := residentKB(t, c.world), 0
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if now = residentKB(t, c.world); now <= most || time.Now().After(deadline) {
			break
		}
		for range 500 {
			_, err := c.CRI.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
			check(t, err)
		}
	}
	t.Logf("resident: %d kB before, %d at the end of the sessions, %d now", memory, peak, now)
	if now > most {
		t.Errorf("the daemon and the keeper have %d kB resident, had %d", now, memory)
	}
}

// canceller begins sessions and leaves them.
type canceller struct {
	*world
	podID, plain, terminal string // two containers, one with a terminal

	mu     sync.Mutex
	counts map[string]int
	unused int // tokens; only so many may be waiting
}

// makePod runs containers that give back what they are told, and a server on port 8080 that does.
func (c *canceller) makePod(t *testing.T) {
	t.Helper()
	s := &session{world: c.world}
	open := func(tty bool) func(*runtimeapi.ContainerConfig) {
		return func(config *runtimeapi.ContainerConfig) {
			config.Stdin, config.Tty = true, tty
			// pause's: what a killed command leaves behind is reaped by it. In a namespace of its own cat would have to, and does not: such zombies
			// stay until the container ends, under every runtime, as only the namespace's first process inherits them (pid_namespaces(7)).
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		}
	}
	c.podID, c.plain = s.container(t, "nc -ll -p 8080 -e cat & exec cat", open(false))
	_, c.terminal = s.container(t, "exec cat", open(true))
	eventually(t, "the server listens", func() (bool, string) {
		out, err := c.CRI.Exec(t.Context(), c.plain, "sh", "-c", "echo back | nc 127.0.0.1 8080")
		return out == "back\n", fmt.Sprint(out, err)
	})
}

// settle waits until no command of a session runs: but the containers' own two and the server there is nothing in them.
func (c *canceller) settle(t *testing.T) {
	t.Helper()
	eventually(t, "no command is left", func() (bool, string) {
		out, err := c.CRI.Exec(t.Context(), c.plain, "sh", "-c", "ps | grep '[s]leep 4713\\|[y]es\\|[c]at /dev' || true")
		return err == nil && out == "", fmt.Sprint(out, err)
	})
}

// cancel begins and leaves sessions, several at once.
func (c *canceller) cancel(t *testing.T, times int) {
	t.Helper()
	const atOnce = 8
	var next atomic.Int64
	var done sync.WaitGroup
	for range atOnce {
		done.Go(func() {
			for n := next.Add(1) - 1; n < int64(times) && !t.Failed(); n = next.Add(1) - 1 {
				if err := c.one(t.Context(), rand.New(rand.NewPCG(*seed, uint64(n)))); err != nil {
					t.Errorf("session %d: %v", n, err)
				}
			}
		})
	}
	done.Wait()
}

// one asks for a session and leaves it somewhere on the way.
func (c *canceller) one(ctx context.Context, r *rand.Rand) error {
	kind := []string{"exec", "exec-tty", "attach", "attach-tty", "portforward"}[r.IntN(5)]
	address, err := c.address(ctx, kind, r)
	if err != nil {
		return err
	}
	transport := []string{"SPDY", "v5.channel.k8s.io", "v4.channel.k8s.io"}[r.IntN(3)]
	if kind == "portforward" && transport == "v5.channel.k8s.io" {
		transport = "SPDY/3.1+portforward.k8s.io"
	}
	point := []string{"unused", "connected", "half a request", "no upgrade", "begun", "streams", "copying", "copying", "copying", "resizing", "input ended", "too many streams"}[r.IntN(12)]
	c.mu.Lock()
	if point == "unused" || point == "connected" || point == "half a request" {
		if c.unused++; c.unused > 600 { // of the thousand that may wait
			point = "begun"
		}
	}
	c.counts[kind]++
	c.counts[transport]++
	c.counts[point]++
	c.mu.Unlock()
	u, err := url.Parse(address)
	if err != nil || point == "unused" {
		return err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if r.IntN(2) == 0 {
		conn.(*net.TCPConn).SetLinger(0) // leaves by a reset
	}
	switch point {
	case "connected":
		return nil
	case "half a request":
		_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nUpgr", u.Path)
		return err
	case "no upgrade":
		_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n\r\n", u.Path)
		return err
	}
	talk := &talk{r: r, kind: kind, point: point}
	if transport == "SPDY" {
		return talk.spdy(conn, u)
	}
	return talk.webSocket(conn, u, transport)
}

// address asks for a session of a kind.
func (c *canceller) address(ctx context.Context, kind string, r *rand.Rand) (string, error) {
	tty := strings.HasSuffix(kind, "-tty")
	cmd := [][]string{{"cat", "/dev/stdin"}, {"sleep", "4713"}, {"yes"}, {"true"}, {"sh", "-c", "trap '' HUP TERM; sleep 4713 & cat /dev/stdin; sleep 4713"}}[r.IntN(5)]
	switch kind {
	case "exec", "exec-tty":
		a, err := c.CRI.RuntimeServiceClient.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: c.plain, Cmd: cmd, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty})
		return a.GetUrl(), err
	case "attach", "attach-tty":
		id := map[bool]string{false: c.plain, true: c.terminal}[tty]
		a, err := c.CRI.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty})
		return a.GetUrl(), err
	}
	port := []int32{8080, 9}[r.IntN(2)] // nobody listens on the second
	a, err := c.CRI.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: c.podID, Port: []int32{port}})
	return a.GetUrl(), err
}

// talk is what a client says before it leaves. The other side may end it at any time: that is no error.
type talk struct {
	r           *rand.Rand
	kind, point string
}

func (k *talk) spdy(conn net.Conn, u *url.URL) error {
	protocol := "v4.channel.k8s.io"
	if k.kind == "portforward" {
		protocol = "portforward.k8s.io"
	}
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n", u.Path, protocol)
	if err != nil {
		return err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("upgrade: %v %w", resp, err)
	}
	c, err := spdy.NewClientConnection(&bufferedConn{conn, br})
	if err != nil {
		return err
	}
	defer c.Close()
	if k.point == "begun" {
		return nil
	}
	names := []string{"error", "stdin", "stdout", "stderr"}
	switch {
	case k.kind == "portforward":
		names = []string{"error", "data"}
	case strings.HasSuffix(k.kind, "-tty"):
		names = []string{"error", "stdin", "stdout", "resize"}
	}
	if k.point == "streams" {
		names = names[:k.r.IntN(len(names))] // not all: the server waits for the others
	}
	if k.point == "too many streams" {
		names = append(names, names...)
	}
	streams := map[string]httpstream.Stream{}
	for _, name := range names {
		h := http.Header{}
		h.Set("streamType", name)
		if k.kind == "portforward" {
			h.Set("port", []string{"8080", "9"}[k.r.IntN(2)])
			h.Set("requestID", "1")
		}
		if streams[name], err = c.CreateStream(h); err != nil {
			return nil //nolint:nilerr // it has ended: "true" is quick
		}
	}
	in := streams["stdin"]
	if k.kind == "portforward" {
		in = streams["data"]
	}
	out := streams["stdout"]
	if k.kind == "portforward" {
		out = in
	}
	if in == nil || out == nil {
		return nil
	}
	switch k.point {
	case "resizing":
		if s := streams["resize"]; s != nil {
			fmt.Fprintf(s, `{"Width":%d,"Height":25}{"Wid`, k.r.IntN(500))
		}
	case "input ended":
		in.Write([]byte("x"))
		in.Close()
	}
	k.copy(in.Write, out.Read)
	return nil
}

// bufferedConn is a connection of which some is read already.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

// Read implements io.Reader.
func (b *bufferedConn) Read(p []byte) (int, error) { return b.r.Read(p) }

func (k *talk) webSocket(conn net.Conn, u *url.URL, protocol string) error {
	config, err := websocket.NewConfig("ws://"+u.Host+u.Path, "http://x")
	if err != nil {
		return err
	}
	config.Protocol = []string{protocol}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", protocol, k.kind, err)
	}
	defer ws.Close()
	if k.point == "begun" {
		return nil
	}
	ws.PayloadType = websocket.BinaryFrame
	send := func(b []byte) (int, error) { return len(b), websocket.Message.Send(ws, append([]byte{0}, b...)) }
	switch k.point {
	case "resizing":
		websocket.Message.Send(ws, fmt.Appendf([]byte{4}, `{"Width":%d,"Height":25}`, k.r.IntN(500)))
	case "input ended":
		send([]byte("x"))
		websocket.Message.Send(ws, []byte{255, 0})
	}
	k.copy(send, ws.Read)
	return nil
}

// copy talks for a random while, then leaves in the middle of it.
func (k *talk) copy(write, read func([]byte) (int, error)) {
	done := make(chan struct{})
	if k.point == "copying" && k.r.IntN(3) > 0 { // the third does not listen
		limit := k.r.IntN(100_000)
		go func() {
			defer close(done)
			b := make([]byte, 4096)
			for n := 0; n < limit; {
				got, err := read(b)
				if n += got; err != nil {
					return
				}
			}
		}()
	} else {
		close(done)
	}
	if k.point == "copying" || k.r.IntN(2) == 0 {
		b := []byte(strings.Repeat("0123456789abcde\n", 1+k.r.IntN(64)))
		for range k.r.IntN(8) {
			if _, err := write(b); err != nil {
				break
			}
		}
	}
	select { // leave when enough was heard, or in the middle
	case <-done:
	case <-time.After(time.Duration(k.r.IntN(5_000)) * time.Microsecond):
	}
}
