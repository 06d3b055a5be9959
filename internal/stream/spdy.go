package stream

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"fermata/internal/pod"
)

// spdy holds a session in SPDY/3.1. cri-streaming's way of waiting for a client's streams goes on for 30 s when the client has left, and for
// ever, with four goroutines, when it opens one stream too many.
func (c *session) spdy(d *command, do func(*pod.Streams) error) {
	protocol, err := httpstream.Handshake(c.request, c, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return // the client has been told
	}
	wanted := d.wanted(protocol)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(c, c.request, wanted.take)
	if conn == nil {
		return // likewise
	}
	defer wanted.end()
	defer conn.Close()
	conn.SetIdleTimeout(idleTimeout)
	streams, err := c.collect(wanted)
	if err != nil {
		c.server.log.Debug("wait for a client's streams", "error", err)
		return
	}
	var sizes chan remotecommand.TerminalSize
	if from := streams[remotecommand.StreamTypeResize]; from != nil {
		sizes = make(chan remotecommand.TerminalSize)
		c.server.work.Go(func() { c.resizes(from, sizes) })
	}
	s := d.streams(streams[remotecommand.StreamTypeStdin], streams[remotecommand.StreamTypeStdout], streams[remotecommand.StreamTypeStderr], sizes)
	ended := do(s)
	text := status(ended)
	if protocol != remotecommand.StreamProtocolV4Name {
		text = []byte(message(ended)) // nothing is success
	}
	// A client that is gone is told nothing.
	_, _ = streams[remotecommand.StreamTypeError].Write(text)
}

// wantedStreams are those that a client has to open, each once, before its session begins.
type wantedStreams struct {
	mu      sync.Mutex
	missing map[string]bool
	arrived chan arrival // holds all of them: nobody ever waits to hand one over
	taken   []httpstream.Stream
}

// arrival is a stream that a client has opened; nothing may be said on it before the opening is replied to.
type arrival struct {
	kind    string
	stream  httpstream.Stream
	replied <-chan struct{}
}

// wanted are the streams of a command's session in a protocol.
func (d *command) wanted(protocol string) *wantedStreams {
	resizes := d.o.TTY && (protocol == remotecommand.StreamProtocolV4Name || protocol == remotecommand.StreamProtocolV3Name)
	all := map[string]bool{
		remotecommand.StreamTypeError: true, remotecommand.StreamTypeResize: resizes,
		remotecommand.StreamTypeStdin: d.o.Stdin, remotecommand.StreamTypeStdout: d.o.Stdout, remotecommand.StreamTypeStderr: d.o.Stderr,
	}
	maps.DeleteFunc(all, func(_ string, wanted bool) bool { return !wanted })
	return &wantedStreams{missing: all, arrived: make(chan arrival, len(all))}
}

// take implements httpstream.NewStreamHandler: a stream that is not wanted, or not any more, is reset.
func (w *wantedStreams) take(s httpstream.Stream, replied <-chan struct{}) error {
	kind := s.Headers().Get(remotecommand.StreamType)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.missing[kind] {
		return fmt.Errorf("stream %.40q is not of this session, or there twice", kind)
	}
	delete(w.missing, kind)
	w.taken = append(w.taken, s)
	w.arrived <- arrival{kind, s, replied}
	return nil
}

// end refuses all further streams and lets go of those that came: one that arrives while its connection is closed is forgotten by it, and what a
// client sends on it waits for a reader, with the goroutines of the whole connection, for ever.
func (w *wantedStreams) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.missing = nil
	for _, s := range w.taken {
		_ = s.Reset() // nobody may be there to be told
	}
}

// collect waits for all streams that are wanted, the client's leaving, or the end of patience.
func (c *session) collect(w *wantedStreams) (map[string]httpstream.Stream, error) {
	patience := time.NewTimer(creationTimeout)
	defer patience.Stop()
	streams := map[string]httpstream.Stream{}
	for range cap(w.arrived) {
		select {
		case a := <-w.arrived:
			select {
			case <-a.replied:
			case <-c.ctx.Done():
				return nil, c.ctx.Err()
			}
			streams[a.kind] = a.stream
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		case <-patience.C:
			return nil, errors.New("not all were opened in time")
		}
	}
	return streams, nil
}
